"""A training from its beginning, or from wherever it was stopped, to its result."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import os
from pathlib import Path
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time

from irnet_tf import data as data_module
from irnet_tf import weights
from irnet_tf.data import pipeline
from irnet_tf.description import describe
from irnet_tf.ede import ede_k, set_ede
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training import step as steps
from irnet_tf.training.outputs import RunFolder, best_row, versions
from irnet_tf.training.recipe import Recipe
from irnet_tf.training.strategy import Workers
import numpy as np
import tensorflow as tf
from tqdm import tqdm

_EVALUATION_BATCH = 500
_CHECKPOINTS_KEPT = 3
_CHECKPOINT_SECONDS = 600  # between two checkpoints within an epoch
_STEPS_BETWEEN_TALKS = 10  # of several workers, about whether to save or to stop


class Stopped(SystemExit):
    """The run was asked to stop (SIGTERM) and has saved where it was."""


def train(
    build: Callable[[], tf.keras.Model],
    data: data_module.Data,
    recipe: Recipe,
    output_dir: str,
    *,
    network: str,
    arguments: dict | None = None,
    preprocessing: Preprocessing | None = None,
    strategy: tf.distribute.Strategy | None = None,
    seed: int = 0,
    ede: bool = True,
    jit_compile: bool = False,
    mixed_precision: str | None = None,
    sync_batch_norm: bool = False,
    resume: bool = True,
    overwrite: bool = False,
    flags: dict | None = None,
) -> dict:
    """Train a network and leave everything worth keeping in a run folder.

    A run that was killed at any moment and is started again with the same arguments goes on
    from its last checkpoint; on one CPU it ends with the same weights bit for bit. Checkpoints
    are made after every epoch, every ten minutes, and on SIGTERM.

    With a `MultiWorkerMirroredStrategy` every worker calls this with the same arguments, and
    with an `output_dir` that they share; only the chief writes there.

    Args:
        build: makes the network; called under the strategy's scope, after the seed is set.
        data: what to train and evaluate on.
        recipe: how to train.
        output_dir: the run folder.
        network: the network's name, kept with the weights.
        arguments: the builder's, kept with the weights.
        preprocessing: of images; None: what the network's description says.
        strategy: which devices share the work; None: one device.
        seed: of initial weights, order and augmentation, 0 to 2**31 - 1.
        ede: whether `t` follows the recipe's schedule; otherwise it stays at `t_min`, which
            makes the backward pass nearly a straight-through estimator.
        jit_compile: whether XLA compiles the step.
        mixed_precision: Keras policy such as `"mixed_bfloat16"`; None: float32.
        sync_batch_norm: whether batch norm takes its statistics over all replicas; the authors'
            did it on each by itself.
        resume, overwrite: what may happen to a run that is in the folder.
        flags: what the user gave, for config.json.

    Returns:
        What result.json holds: `{"final": {"epoch", "accuracy", "top5", "loss"}, "best":
        {...}, "images_per_second", "seconds"}`.

    Raises:
        ValueError: for bad arguments, a folder that holds another run, an image that cannot
            be read, or a loss that is not a number any more.
        OSError: if something cannot be saved, such as on a full disk.
        Stopped: on SIGTERM to any worker, after a checkpoint was saved.
        WorkerLost: if another worker has gone; the same call in a new process goes on.
    """
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must be between 0 and 2**31 - 1, got {seed}")
    strategy = strategy or tf.distribute.get_strategy()
    if jit_compile and sync_batch_norm and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "jit_compile and sync_batch_norm do not go together on several devices: XLA cannot "
            "compile what they tell each other; leave one of them out"
        )
    steps_per_epoch = pipeline.steps_per_epoch(data.train, recipe.batch_size)
    identity = {
        "network": network,
        "arguments": arguments or {},
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "ede": ede,
        "mixed_precision": mixed_precision,
        "sync_batch_norm": sync_batch_norm,
        "data": {
            "name": data.name,
            "train_images": data.train.num_examples,
            "test_images": data.test.num_examples,
            "classes": list(data.class_names),
        },
    }
    config = {"identity": identity, "flags": flags or {}, "versions": versions()}
    config["machine"] = {
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "devices": [d.name for d in tf.config.list_logical_devices()],
        "replicas": strategy.num_replicas_in_sync,
    }

    def facts(row):
        return {
            **{k: v for k, v in identity.items() if k not in ("recipe", "sync_batch_norm")},
            "epochs": recipe.epochs,
            "epoch": int(row["epoch"]),
            "accuracy": row["test_accuracy"],
            "top5": row["test_top5"],
        }

    tf.keras.utils.set_random_seed(seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()  # costs nothing on a CPU
    workers = Workers(strategy)
    shared = RunFolder(output_dir)
    with (
        workers.noticing_loss(),
        tempfile.TemporaryDirectory() as elsewhere,
        _Sigterm() as sigterm,
        data_module.naming_unreadable_images(),
    ):
        workers.together(
            lambda: (
                shared.prepare(config, resume=resume, overwrite=overwrite)
                if workers.is_chief
                else None
            )
        )
        workers.together(lambda: shared.check(identity))
        # All save, because what replicas hold apart is put together then; the chief's is kept.
        folder = shared if workers.is_chief else RunFolder(elsewhere)

        if mixed_precision:
            tf.keras.mixed_precision.set_global_policy(mixed_precision)
        with strategy.scope():
            model = build()
            preprocessing = _preprocessing(model, preprocessing)
            if sync_batch_norm:
                model = steps.synchronise_batch_norm(model)
            optimizer = steps.make_optimizer(recipe, steps_per_epoch)
            if mixed_precision == "mixed_float16":
                optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
            optimizer.build(model.trainable_variables)
            metrics = steps.Metrics()
        epoch = tf.Variable(0, trainable=False, dtype=tf.int64, name="epoch")
        step = tf.Variable(0, trainable=False, dtype=tf.int64, name="step")
        rate = recipe.learning_rate_schedule(steps_per_epoch)
        checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizer, metrics=metrics, epoch=epoch, step=step
        )
        _restore(checkpoint, shared)
        rows = shared.read_rows(int(epoch))
        _check_all_found_the_same(workers, (int(epoch), int(step), len(rows)), output_dir)
        manager = tf.train.CheckpointManager(
            checkpoint, str(folder.checkpoints), max_to_keep=_CHECKPOINTS_KEPT
        )
        say = print if workers.is_chief else lambda text: None
        if int(epoch) == recipe.epochs:
            say(f"the run in {output_dir} is finished; --overwrite trains it anew")
        elif int(epoch) or int(step):
            say(f"going on after epoch {int(epoch)} of {recipe.epochs}, step {int(step)}")

        batches = _distributed_batches(
            strategy, data, recipe, preprocessing, seed, int(epoch), int(step)
        )
        train_step = steps.make_train_step(model, optimizer, metrics, recipe, strategy, jit_compile)
        average_statistics = steps.make_average_statistics(model, strategy)
        evaluate_epoch = _Evaluation(model, data, preprocessing, strategy)
        writer = tf.summary.create_file_writer(str(folder.tensorboard))
        saved = time.perf_counter()
        iterator = iter(batches)

        def keep(action, *arguments):
            workers.together(lambda: _keep(folder, action, *arguments))

        while int(epoch) < recipe.epochs:
            # ---- an epoch: EDE's t, then all steps -------------------------------------------
            t = recipe.ede(int(epoch) / recipe.epochs) if ede else recipe.t_min
            progress = int(epoch) / recipe.epochs if ede else 0.0
            set_ede(model, t, recipe.activation_ede(progress))
            number = int(epoch) + 1
            begin, first_step = time.perf_counter(), int(step)
            bar = tqdm(
                total=steps_per_epoch,
                initial=first_step,
                desc=f"epoch {number}/{recipe.epochs}",
                unit="step",
                mininterval=0.5 if sys.stderr.isatty() else 15,  # a log needs fewer lines
                leave=False,
                disable=not workers.is_chief,
            )
            shown = begin
            while int(step) < steps_per_epoch:
                train_step(iterator)
                step.assign_add(1)
                bar.update()
                last = int(step) == steps_per_epoch
                if workers.several and int(step) % _STEPS_BETWEEN_TALKS and not last:
                    continue
                now = time.perf_counter()
                stop, save, show = workers.any(
                    sigterm.received, now - saved > _CHECKPOINT_SECONDS, now - shown > 1
                )
                if show:
                    shown = now
                    so_far = metrics.result()
                    _check_loss(so_far["loss"], number, shared)
                    bar.set_postfix_str(
                        f"loss {so_far['loss']:.3f}, accuracy {so_far['accuracy']:.1%}",
                        refresh=False,
                    )
                if save or stop:
                    average_statistics()
                    keep(manager.save)
                    saved = now
                if stop:
                    raise Stopped(f"stopped by SIGTERM in epoch {number}; saved")
            bar.close()
            trained = metrics.result()
            _check_loss(trained["loss"], number, shared)
            trained_in = time.perf_counter() - begin

            # ---- evaluate --------------------------------------------------------------------
            metrics.reset()
            average_statistics()
            tested = evaluate_epoch()
            _check_loss(tested["loss"], number, shared)
            row = {
                "epoch": int(epoch),
                "train_loss": trained["loss"],
                "train_accuracy": trained["accuracy"],
                "test_loss": tested["loss"],
                "test_accuracy": tested["accuracy"],
                "test_top5": tested["top5"],
                "learning_rate": float(rate((int(epoch) + 1) * steps_per_epoch - 1)),
                "ede_t": t,
                "ede_k": ede_k(t),
                "images_per_second": (steps_per_epoch - first_step)
                * recipe.batch_size
                / trained_in,
                "seconds": time.perf_counter() - begin,
            }
            rows.append(row)

            # ---- keep: everything that the checkpoint vouches for comes before it --------------
            epoch.assign_add(1)
            step.assign(0)
            if best_row(rows) is row:
                keep(weights.save_weights, model, folder.best, facts(row))
            if number == recipe.epochs:
                keep(weights.save_weights, model, folder.final, facts(row))
            keep(folder.write_rows, rows)
            keep(manager.save)
            keep(_log, writer, row)
            keep(folder.plot, rows, f"{network} on {data.name}")
            saved = time.perf_counter()
            say(
                f"epoch {number}/{recipe.epochs}: loss {row['train_loss']:.4f}, train "
                f"{row['train_accuracy']:.2%}, test {row['test_accuracy']:.2%}, "
                f"{row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s"
            )
        result = {}
        keep(lambda: result.update(folder.write_result(rows)))
        return result


def evaluate(
    model: tf.keras.Model,
    data: data_module.Data,
    strategy: tf.distribute.Strategy | None = None,
    *,
    preprocessing: Preprocessing | None = None,
) -> dict[str, float]:
    """`loss`, `accuracy` and `top5`, as fractions, over every test image, and how many `images`.

    Args:
        model: a network that gives logits, `[batch, size, size, 3]` to `[batch, classes]`.
        data: the data set; its test split is used, normalised as in training.
        strategy: whose scope the model was made in; None: one device.
        preprocessing: of images; None: what the network's description says.
    """
    strategy = strategy or tf.distribute.get_strategy()
    with data_module.naming_unreadable_images():
        return _Evaluation(model, data, _preprocessing(model, preprocessing), strategy)()


def _preprocessing(model, given):
    description = describe(model)
    found = given or (description and description.preprocessing)
    if found is None:
        raise ValueError(
            "the network does not say what it expects of an image; give preprocessing, an "
            "irnet_tf.preprocessing.Preprocessing"
        )
    return found


class _Evaluation:
    def __init__(self, model, data, preprocessing, strategy):
        def batches(context):
            return data_module.evaluation_batches(
                data.test,
                batch_size=_EVALUATION_BATCH,
                preprocessing=preprocessing,
                workers=context.num_input_pipelines,
                worker=context.input_pipeline_id,
            )

        with strategy.scope():
            self._metrics = steps.Metrics()
        self._batches = strategy.distribute_datasets_from_function(batches)
        self._step = steps.make_evaluate_step(model, self._metrics, strategy)

    def __call__(self):
        self._metrics.reset()
        for batch in self._batches:
            self._step(batch)
        return self._metrics.result()


def _distributed_batches(strategy, data, recipe, preprocessing, seed, first_epoch, first_step):
    def batches(context):
        return data_module.training_batches(
            data.train,
            batch_size=recipe.batch_size,
            preprocessing=preprocessing,
            augmentation=recipe.augmentation,
            seed=seed,
            epochs=recipe.epochs,
            first_epoch=first_epoch,
            first_step=first_step,
            workers=context.num_input_pipelines,
            worker=context.input_pipeline_id,
            replicas=context.num_replicas_in_sync // context.num_input_pipelines,
        ).repeat()  # so that workers need not ask each other at every step whether there is more

    return strategy.distribute_datasets_from_function(batches)


def _restore(checkpoint: tf.train.Checkpoint, folder: RunFolder) -> None:
    """From the last checkpoint that can be read; a damaged one is passed over.

    Raises:
        ValueError: if there are checkpoints but none can be read.
    """
    paths = _checkpoints(folder)
    for path in reversed(paths):
        try:
            checkpoint.restore(path).assert_consumed()
            return
        except (tf.errors.OpError, IndexError) as error:
            reason = str(error).splitlines()[0]
            print(f"cannot read the checkpoint {path} ({reason})", file=sys.stderr)
    if paths:
        raise ValueError(
            f"none of the checkpoints in {folder.checkpoints} can be read; --overwrite trains anew"
        )


def _checkpoints(folder: RunFolder) -> list[str]:
    """Those that were finished, for the index is written last; the oldest first."""
    paths = [path.with_suffix("") for path in folder.checkpoints.glob("ckpt-*.index")]
    return [str(path) for path in sorted(paths, key=lambda path: int(path.name.split("-")[1]))]


def _check_all_found_the_same(workers, found, output_dir):
    different = {tuple(row) for row in workers.gather(found).tolist()}
    if len(different) > 1:
        raise ValueError(
            f"the workers found different things in output_dir {output_dir!r}: (epoch, step, rows "
            f"of metrics.csv) {sorted(different)}; it must be a folder that all of them share"
        )


def _log(writer, row: dict) -> None:
    with writer.as_default(step=int(row["epoch"]) + 1):
        for name, value in row.items():
            tf.summary.scalar(name, value)
    writer.flush()


def _keep(folder: RunFolder, action: Callable, *arguments) -> None:
    """Save something; if that fails, say why and what is left."""
    try:
        action(*arguments)
    except (OSError, tf.errors.OpError) as error:
        if isinstance(error, tf.errors.OpError) and not isinstance(
            error, (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError)
        ):
            raise
        good = _checkpoints(folder)
        for part in folder.checkpoints.glob("ckpt-*"):  # of the one that did not fit
            if not any(part.name.startswith(Path(path).name + ".") for path in good):
                shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink()
        raise OSError(
            f"cannot save in {folder.folder}: {str(error).splitlines()[0]}; {_last_good(folder)}. "
            "Make room, then give the same command again"
        ) from error


def _last_good(folder: RunFolder) -> str:
    good = _checkpoints(folder)
    return f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint before"


def _check_loss(loss: float, number: int, folder: RunFolder) -> None:
    if not np.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} in epoch {number}; stopped, {_last_good(folder)}. A lower "
            "--learning_rate usually cures it"
        )


class _Sigterm:
    """Notes a SIGTERM (pre-emption) so that the run can save before it stops."""

    received = False

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, number, frame):
        self.received = True

    def __exit__(self, *error):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)
