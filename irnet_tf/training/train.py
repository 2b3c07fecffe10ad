"""Trains a network with `Model.fit`, from the start or from the last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
import random
import tempfile

from irnet_tf import _compat
from irnet_tf import data as data_module
from irnet_tf.data import pipeline
from irnet_tf.ede import EDECallback, EDESchedule
from irnet_tf.evaluation import evaluation_batches, preprocessing_of
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training.callbacks import (
    AverageStatistics,
    Progress,
    RunLogger,
    StopOnSignal,
    TerminateOnNaN,
)
from irnet_tf.training.config import add_run, config_of, summary
from irnet_tf.training.details import LayerDetails
from irnet_tf.training.distribute import is_chief, on_all_workers, stop_all_workers
from irnet_tf.training.optimizer import compile_model
from irnet_tf.training.recipe import Recipe
from irnet_tf.training.run_dir import Checkpoints, RunDir
import numpy as np
import tensorflow as tf

_MAX_STEPS = 2**31 - 1
_DETAILS_BATCH = 128


def train(
    build: Callable[[], tf.keras.Model],
    data: data_module.Data,
    recipe: Recipe,
    output_dir: str | os.PathLike,
    *,
    strategy: tf.distribute.Strategy | None = None,
    preprocessing: Preprocessing | None = None,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
    seed: int = 0,
    ede: bool = True,
    jit_compile: bool = False,
    sync_batch_norm: bool = False,
    resume: bool = True,
    overwrite: bool = False,
    log_details: bool = False,
    flags: dict | None = None,
) -> dict:
    """Trains a network and writes a run folder.

    A stopped run that is started again with the same arguments resumes after its last finished
    epoch; on a CPU it ends with the same weights, bit for bit, as one that was never stopped. The
    workers of a `MultiWorkerMirroredStrategy` share `output_dir`, in which the chief writes.

    Args:
        build: Function that builds the network; called in the strategy's scope after the seed and
            the precision are set.
        data: Data set.
        recipe: Hyperparameters.
        output_dir: Run folder; missing, empty, or holding this run.
        strategy: Distribution strategy; None: that of the current scope.
        preprocessing: Preprocessing of the images; None: the model config's.
        callbacks: Further callbacks for `fit`.
        seed: Seed of initial weights, order and augmentation, 0 to 2**31 - 1.
        ede: Follow the recipe's schedule of `t`; otherwise `t` stays at `t_min`.
        jit_compile, sync_batch_norm: As in `compile_model`.
        resume, overwrite: Resume, or delete, the run that is in `output_dir`.
        log_details: Write `details.csv`; see `irnet_tf.training.details`.
        flags: Command line flags, for config.json.

    Returns:
        The content of result.json: `{"final": {"epoch", "accuracy", "top5", "loss"}, "best":
        {...}, "images_per_second", "seconds"}`. Epochs count from 1, accuracies are fractions.

    Raises:
        ValueError: For bad arguments, a folder that is in use or holds something else, an image
            that cannot be read, or a NaN loss.
        OSError: If a file cannot be written, for example on a full disk.
        Stopped: On SIGTERM or Ctrl-C.
        WorkerLost: If another worker stopped.
    """
    strategy = strategy or tf.distribute.get_strategy()
    _check_arguments(data, recipe, strategy, seed)
    run_dir = RunDir(output_dir)
    with (
        contextlib.ExitStack() as stack,
        stop_all_workers(strategy, run_dir.reason),
        data_module.report_unreadable_images(data),
        global_state(seed, recipe.mixed_precision),
    ):
        with strategy.scope(), _compat.layers_from_zero():
            model = build()
        preprocessing = preprocessing_of(model, preprocessing)
        compile_model(
            model,
            recipe,
            pipeline.steps_per_epoch(data.train, recipe.batch_size),
            preprocessing=preprocessing,
            jit_compile=jit_compile,
            sync_batch_norm=sync_batch_norm,
        )
        options = {"seed": seed, "ede": ede, "sync_batch_norm": sync_batch_norm}
        config = config_of(model, data, recipe, preprocessing, flags, options)
        if result := _open(model, run_dir, config, stack, resume=resume, overwrite=overwrite):
            return result
        add_run(model, config["identity"], preprocessing)
        return _fit(
            model, data, recipe, preprocessing, config["identity"], run_dir, callbacks, log_details
        )


def _open(model, run_dir, config, stack, **options) -> dict | None:
    """Opens the run folder on all workers; returns the result if the run is finished."""
    strategy = model.distribute_strategy
    opened = run_dir.opened(config, **options)
    on_all_workers(strategy, lambda: is_chief(strategy) and stack.enter_context(opened))
    on_all_workers(strategy, lambda: run_dir.check(config["identity"]))
    result = run_dir.read_result()
    if is_chief(strategy):
        done = " (finished; overwrite trains it again)" if result else ""
        print(f"{summary(model, config)}\nfolder   {run_dir.path}{done}", flush=True)
    return result


def _fit(model, data, recipe, preprocessing, identity, run_dir, callbacks, log_details) -> dict:
    """Restores the last checkpoint, trains the epochs that are left, writes result.json."""
    strategy = model.distribute_strategy
    with contextlib.ExitStack() as stack:
        # All workers write, as saving reads variables of all replicas; the chief's files are kept.
        chief = is_chief(strategy)
        own = run_dir if chief else RunDir(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = Checkpoints(model, own.checkpoints)
        epoch = on_all_workers(strategy, lambda: checkpoints.restore(run_dir.checkpoints))
        test_batches, test_steps = evaluation_batches(model, data, preprocessing)
        if log_details and chief:
            batch = None  # gradient norms are logged on one replica only
            if strategy.num_replicas_in_sync == 1:
                batch = [part[:_DETAILS_BATCH] for part in next(iter(test_batches))]
            callbacks = [*callbacks, LayerDetails(own.path, batch)]
        logger = RunLogger(
            own.path,
            batch_size=min(recipe.batch_size, data.train.num_examples),
            title=f"{identity['network']} on {data.name}",
            checkpoints=checkpoints,
        )
        stop = StopOnSignal()
        stack.callback(stop.restore_handlers)
        ede = recipe.ede if identity["ede"] else EDESchedule(recipe.t_min, recipe.t_min)
        ede = EDECallback(recipe.epochs, ede)
        callbacks = [ede, AverageStatistics(), *callbacks, TerminateOnNaN(), logger, stop]
        if chief:
            callbacks.append(progress := Progress())
            stack.callback(progress.close)
            if epoch:
                print(f"resuming after epoch {epoch} of {recipe.epochs}", flush=True)
        model.fit(
            training_batches(
                model,
                data,
                recipe,
                seed=identity["seed"],
                first_epoch=epoch,
                preprocessing=preprocessing,
            ),
            initial_epoch=epoch,
            epochs=recipe.epochs,
            steps_per_epoch=pipeline.steps_per_epoch(data.train, recipe.batch_size),
            validation_data=test_batches,
            validation_steps=test_steps,
            callbacks=callbacks,
            verbose=0,
        )
        return own.write_result(logger.rows)


def training_batches(
    model: tf.keras.Model,
    data: data_module.Data,
    recipe: Recipe,
    *,
    seed: int = 0,
    first_epoch: int = 0,
    preprocessing: Preprocessing | None = None,
) -> tf.distribute.DistributedDataset:
    """The batches that `train` trains on, for `Model.fit` with `steps_per_epoch`.

    The dataset repeats without end. Its images are uint8; the training step of `compile_model`
    augments and normalises them on the device.

    Args:
        model: Model; each replica of its strategy gets a share of each batch.
        data: Data set; the training split is used.
        recipe: Batch size, epochs and augmentation.
        seed: Seed of order and augmentation.
        first_epoch: First epoch, from 0; the `initial_epoch` of `fit`.
        preprocessing: Preprocessing of the images; None: the model config's.

    Raises:
        ValueError: If the replicas cannot share a batch evenly.
    """
    preprocessing = preprocessing or preprocessing_of(model)

    def batches(context):
        return data_module.training_batches(
            data.train,
            batch_size=recipe.batch_size,
            preprocessing=preprocessing,
            augmentation=recipe.augmentation,
            seed=seed,
            epochs=recipe.epochs,
            first_epoch=first_epoch,
            workers=context.num_input_pipelines,
            worker=context.input_pipeline_id,
            replicas=context.num_replicas_in_sync // context.num_input_pipelines,
            on_device=True,
        ).repeat()

    return model.distribute_strategy.distribute_datasets_from_function(batches)


@contextlib.contextmanager
def global_state(seed: int, mixed_precision: str | None = None) -> Iterator[None]:
    """Sets the seeds, precision and determinism of a run, and restores them afterwards.

    Args:
        seed: Seed of Python's, NumPy's, TensorFlow's and Keras's random numbers.
        mixed_precision: Keras policy such as `"mixed_bfloat16"`; None: that of `floatx`.

    Raises:
        ValueError: If the policy is unknown.
    """
    policy = tf.keras.mixed_precision.Policy(mixed_precision or tf.keras.backend.floatx())
    before = tf.keras.mixed_precision.global_policy()
    if before.name == tf.keras.backend.floatx():
        before = None  # follows floatx
    python, numpy = random.getstate(), np.random.get_state()
    with _compat.keeping_seeds_and_determinism():
        try:
            tf.keras.mixed_precision.set_global_policy(policy)
            tf.keras.utils.set_random_seed(seed)
            if not tf.config.list_physical_devices("GPU"):
                tf.config.experimental.enable_op_determinism()  # costs nothing on a CPU
            yield
        finally:
            tf.keras.mixed_precision.set_global_policy(before)
            random.setstate(python)
            np.random.set_state(numpy)


def _check_arguments(data, recipe, strategy, seed):
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must be between 0 and 2**31 - 1, got {seed}")
    pipeline.check_divides(recipe.batch_size, strategy.num_replicas_in_sync)
    steps = pipeline.steps_per_epoch(data.train, recipe.batch_size)
    if recipe.epochs * steps > _MAX_STEPS:
        raise ValueError(
            f"epochs {recipe.epochs} of {steps} steps are too many; at most {_MAX_STEPS // steps}"
        )
