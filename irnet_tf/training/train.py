"""Trains a model with `Model.fit`, from the start or from the last checkpoint."""

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
from irnet_tf.model_config import gives_logits
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training.batches import training_batches
from irnet_tf.training.build import build_model, check_outputs, synchronise_batch_norm
from irnet_tf.training.callbacks import (
    AverageStatistics,
    Progress,
    RunLogger,
    StopOnSignal,
    TerminateOnNaN,
)
from irnet_tf.training.checkpoints import Checkpoints
from irnet_tf.training.config import add_results, config_of, identity_of, summary
from irnet_tf.training.details import LayerDetails
from irnet_tf.training.optimizer import compile_model
from irnet_tf.training.recipe import Recipe
from irnet_tf.training.run_dir import RunDir
from irnet_tf.training.workers import gather, is_chief, on_all_workers, stop_all_workers
import numpy as np
import tensorflow as tf

_MAX_STEPS = 2**31 - 1
_DETAILS_BATCH = 128


def train(
    model: tf.keras.Model | Callable[[], tf.keras.Model],
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

    A run that was stopped resumes after the last finished epoch when it is started again with the
    same arguments; on a CPU it ends with the same weights, bit for bit, as a run that was never
    stopped. With a `MultiWorkerMirroredStrategy` every worker calls this function with the same
    arguments and a shared `output_dir`, in which the chief writes.

    Args:
        model: Function that builds the network, called under the strategy's scope after the seed
            and the precision are set; or a network built so.
        data: Data set.
        recipe: Hyperparameters.
        output_dir: Run folder; missing, empty, or holding this run.
        strategy: Distribution strategy; None: that of the current scope.
        preprocessing: Preprocessing of the images; None: the model config's.
        callbacks: Further callbacks for `fit`.
        seed: Seed of initial weights, order and augmentation, 0 to 2**31 - 1.
        ede: Follow the recipe's schedule of `t`; otherwise `t` stays at `t_min`, which is close to
            a straight-through estimator.
        jit_compile: Compile the training step with XLA.
        sync_batch_norm: Batch norm statistics over all replicas; the authors' are per replica.
        resume: Resume the run if `output_dir` holds it.
        overwrite: Delete a run that is in `output_dir`.
        log_details: Write `details.csv`; see `irnet_tf.training.details`.
        flags: Command line flags, for config.json.

    Returns:
        The content of result.json: `{"final": {"epoch", "accuracy", "top5", "loss"}, "best":
        {...}, "images_per_second", "seconds"}`; epochs count from 1.

    Raises:
        ValueError: For bad arguments, a folder that is in use or holds something else, an image
            that cannot be read, or a NaN loss.
        OSError: If a file cannot be written, for example on a full disk.
        Stopped: On SIGTERM or Ctrl-C.
        WorkerLost: If another worker stopped.
    """
    strategy = strategy or tf.distribute.get_strategy()
    steps = _check_arguments(data, recipe, strategy, seed, jit_compile and sync_batch_norm)
    run_dir = RunDir(output_dir)
    run_dir.check_path()
    chief = is_chief(strategy)
    with (
        contextlib.ExitStack() as stack,
        stop_all_workers(strategy, run_dir.reason),
        data_module.report_unreadable_images(data),
        global_state(seed, recipe.mixed_precision),
    ):
        with strategy.scope():
            model = build_model(model, strategy)
            if sync_batch_norm:
                model = synchronise_batch_norm(model)
        check_outputs(model, data)
        preprocessing = preprocessing_of(model, preprocessing)
        options = {"seed": seed, "ede": ede, "sync_batch_norm": sync_batch_norm}
        identity = identity_of(model, data, recipe, preprocessing, **options)

        def open_run_dir():
            if chief:
                stack.enter_context(run_dir.locked())
                config = config_of(identity, flags, strategy)
                run_dir.prepare(config, resume=resume, overwrite=overwrite)

        on_all_workers(strategy, open_run_dir)
        on_all_workers(strategy, lambda: run_dir.check(identity))
        if chief:
            print(summary(model, data, recipe, preprocessing, identity, jit_compile=jit_compile))
            print(f"folder   {run_dir.path}", flush=True)
        if result := run_dir.read_result():
            if chief:
                print(f"the run in {run_dir.path} is finished; overwrite trains it again")
            return result
        compile_model(model, recipe, steps, preprocessing=preprocessing, jit_compile=jit_compile)
        # All workers write, as saving reads variables of all replicas; the chief's files are kept.
        own = run_dir if chief else RunDir(stack.enter_context(tempfile.TemporaryDirectory()))
        callbacks = list(callbacks)
        if log_details and chief:
            callbacks.append(_layer_details(model, data, preprocessing, own))
        rows = _fit(
            model, data, recipe, preprocessing, identity, steps, run_dir, own, callbacks, stack
        )
        return own.write_result(rows)


def _fit(
    model, data, recipe, preprocessing, identity, steps, run_dir, own, callbacks, stack
) -> list[dict]:
    """Restores the last checkpoint and trains the epochs that are left.

    Args:
        run_dir: Folder to restore from.
        own: Folder to write to.
        stack: Calls what must be undone if `fit` ends with an error.

    Returns:
        The rows of metrics.csv.
    """
    strategy = model.distribute_strategy
    checkpoints = Checkpoints(model, own.checkpoints)
    first_epoch = on_all_workers(strategy, lambda: checkpoints.restore(run_dir.checkpoints))
    if len(set(gather(strategy, str(first_epoch)))) > 1:
        raise ValueError(f"the workers found different checkpoints in {run_dir.checkpoints}")
    logger = RunLogger(
        own.path,
        batch_size=min(recipe.batch_size, data.train.num_examples),
        title=f"{identity['network']} on {data.name}",
        checkpoints=checkpoints,
        add_results=lambda row: add_results(model, identity, preprocessing, row),
    )
    stop = StopOnSignal()
    stack.callback(stop.restore_handlers)
    schedule = recipe.ede if identity["ede"] else EDESchedule(recipe.t_min, recipe.t_min)
    ede = EDECallback(recipe.epochs, schedule)
    callbacks = [ede, AverageStatistics(), *callbacks, TerminateOnNaN(), logger, stop]
    if is_chief(strategy):
        callbacks.append(progress := Progress())
        stack.callback(progress.close)
        if first_epoch:
            print(f"resuming after epoch {first_epoch} of {recipe.epochs}", flush=True)
    test_batches, test_steps = evaluation_batches(model, data, preprocessing)
    model.fit(
        training_batches(
            model,
            data,
            recipe,
            seed=identity["seed"],
            first_epoch=first_epoch,
            preprocessing=preprocessing,
        ),
        initial_epoch=first_epoch,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        validation_data=test_batches,
        validation_steps=test_steps,
        callbacks=callbacks,
        verbose=0,
    )
    return logger.rows


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


def _check_arguments(data, recipe, strategy, seed, xla_and_sync) -> int:
    """Returns the number of steps per epoch."""
    replicas = strategy.num_replicas_in_sync
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must be between 0 and 2**31 - 1, got {seed}")
    if xla_and_sync and replicas > 1:
        raise ValueError(
            "XLA cannot compile synchronised batch norm on several replicas: leave out jit_compile "
            "or sync_batch_norm"
        )
    pipeline.check_divides(recipe.batch_size, replicas)
    steps = pipeline.steps_per_epoch(data.train, recipe.batch_size)
    if recipe.epochs * steps > _MAX_STEPS:
        raise ValueError(
            f"epochs {recipe.epochs} of {steps} steps are too many; at most {_MAX_STEPS // steps}"
        )
    return steps


def _layer_details(model, data, preprocessing, run_dir) -> LayerDetails:
    """Gradient norms are logged on one replica only."""
    batch = None
    if model.distribute_strategy.num_replicas_in_sync == 1:
        batches = data_module.evaluation_batches(
            data.test,
            batch_size=min(_DETAILS_BATCH, data.test.num_examples),
            preprocessing=preprocessing,
        )
        batch = next(iter(batches))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(gives_logits(model), reduction="none")
    return LayerDetails(run_dir.path, batch, loss)
