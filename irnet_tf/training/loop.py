"""A training from its beginning, or from wherever it was stopped, to its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import os
import time

from irnet_tf import data as data_module
from irnet_tf.data import pipeline
from irnet_tf.ede import EDECallback, EDESchedule
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training import feeding, replicas
from irnet_tf.training import optimizer as optimizers
from irnet_tf.training.callbacks import AverageStatistics, RunLogger, details
from irnet_tf.training.identity import Options, complete, config_of, identity_of
from irnet_tf.training.position import Position
from irnet_tf.training.progress import Progress, in_words, opening
from irnet_tf.training.recipe import Recipe
from irnet_tf.training.run_dir import RunFolder, open_run_folder
from irnet_tf.training.state import Signals, global_state
from irnet_tf.training.workers import Workers
import numpy as np
import tensorflow as tf

_CHECKPOINT_SECONDS = 600  # between two checkpoints within an epoch
_MOST_STEPS = 2**31 - 1
_STEPS_BETWEEN_TALKS = 10  # of several workers, about whether to save or to stop


class Stopped(SystemExit):
    """The run was asked to stop (SIGTERM or Ctrl-C) and has saved where it was."""


def train(
    model: tf.keras.Model | Callable[[], tf.keras.Model],
    data: data_module.Data,
    recipe: Recipe,
    output_dir: str | os.PathLike,
    *,
    strategy: tf.distribute.Strategy | None = None,
    preprocessing: Preprocessing | None = None,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
    resume: bool = True,
    overwrite: bool = False,
    flags: dict | None = None,
    log_details: bool = False,
    **options,
) -> dict:
    """Train a network and leave everything worth keeping in a run folder.

    A run that was killed at any moment and is started again with the same arguments is resumed
    from its last checkpoint; on one CPU it ends with the same weights bit for bit. Checkpoints
    are made after every epoch, every ten minutes, and on SIGTERM or Ctrl-C. What the run changes
    in the process (seeds, precision, determinism) is given back.

    With a `MultiWorkerMirroredStrategy` every worker calls this with the same arguments, and
    with an `output_dir` that they share; only the chief writes there.

    Args:
        model: what makes the network: called under the strategy's scope, after seed and
            precision are set; or the network, made so. Its description says which it is.
        data: what to train and evaluate on.
        recipe: how to train.
        output_dir: the run folder.
        strategy: which devices share the work; None: that of the current scope, or one device.
        preprocessing: of images; None: what the model's description says.
        callbacks: told of the training's and each epoch's beginning and end, with the logs of
            `fit`, before the row of metrics.csv is written, and of the evaluation's beginning;
            not of batches, and `model.stop_training` stops nothing: for those use `fit`.
        resume, overwrite: what may happen to a run that is in the folder.
        flags: what the user gave, for config.json.
        log_details: whether each epoch's flip ratios, gradient norms (on one device) and
            histograms are written, a layer each; see `irnet_tf.training.details`.
        **options: of `Options`: seed, ede, jit_compile, sync_batch_norm.

    Returns:
        What result.json holds: `{"final": {"epoch", "accuracy", "top5", "loss"}, "best":
        {...}, "images_per_second", "seconds"}`; epochs count from 1.

    Raises:
        ValueError: for bad arguments, a folder that holds another run or is in use, an image
            that cannot be read, or a loss that is not a number any more.
        OSError: if something cannot be saved, such as on a full disk.
        Stopped: on SIGTERM or Ctrl-C to any worker, after a checkpoint was saved.
        WorkerLost: if another worker has gone; the same call in a new process resumes the run.
    """
    options = Options(**options)
    strategy = strategy or tf.distribute.get_strategy()
    if options.jit_compile and options.sync_batch_norm and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "jit_compile and sync_batch_norm do not go together on several devices: XLA cannot "
            "compile what they tell each other; leave one of them out"
        )
    pipeline.check_divides(recipe.batch_size, strategy.num_replicas_in_sync)
    steps = pipeline.steps_per_epoch(data.train, recipe.batch_size)
    if recipe.epochs * steps > _MOST_STEPS:
        raise ValueError(
            f"epochs {recipe.epochs} of {steps} steps are too many; at most {_MOST_STEPS // steps}"
        )
    shared = RunFolder(output_dir)
    shared.check_it_can_be_one()
    workers = Workers(strategy)
    with (
        workers.noticing_lost_workers(shared.failure),
        contextlib.ExitStack() as stack,
        Signals() as signals,
        data_module.report_unreadable_images(data),
        global_state(options.seed, recipe.mixed_precision),
    ):
        with strategy.scope():
            model = replicas.made(model, strategy)
            if options.sync_batch_norm:
                model = replicas.synchronise_batch_norm(model)
        feeding.check_fits(model, data)
        preprocessing = feeding.preprocessing_of(model, preprocessing)
        identity = identity_of(model, data, recipe, preprocessing, options)
        folder = open_run_folder(
            shared,
            config_of(identity, flags, strategy),
            workers,
            stack,
            resume=resume,
            overwrite=overwrite,
        )
        stack.enter_context(workers.telling_why(shared.failure))
        run = _Run(model, data, recipe, preprocessing, options, folder, shared, identity)
        if log_details and workers.is_chief:
            callbacks = [*callbacks, details(model, data, preprocessing, folder.folder)]
        run.begin(workers, signals, callbacks)
        return run.to_the_end()


class _Run:
    """A training under way: `begin` makes its parts and restores them, `to_the_end` trains."""

    def __init__(self, model, data, recipe, preprocessing, options, folder, shared, identity):
        self.model = model
        self.data = data
        self.recipe = recipe
        self.preprocessing = preprocessing
        self.options = options
        self.folder = folder
        self.shared = shared
        self.identity = identity
        self.steps = pipeline.steps_per_epoch(data.train, recipe.batch_size)

    def begin(self, workers: Workers, signals: Signals, callbacks) -> None:
        """Compile the model, restore the last checkpoint, and say where the run stands."""
        self.workers = workers
        self.signals = signals
        model, recipe, options = self.model, self.recipe, self.options
        optimizers.compile_model(
            model,
            recipe,
            self.steps,
            preprocessing=self.preprocessing,
            jit_compile=options.jit_compile,
        )
        self.at = Position(model, self.folder, self.shared, workers)
        self.at.restore()
        schedule = recipe.ede if options.ede else EDESchedule(recipe.t_min, recipe.t_min)
        self.outputs = RunLogger(
            self.folder.folder,
            batch_size=recipe.batch_size,
            title=f"{self.identity['network']} on {self.data.name}",
            rows=self.at.rows,
            describe=self._describe,
            keep=self.at.keep,
            checkpoint=self._save_epoch,
        )
        self.callbacks = tf.keras.callbacks.CallbackList(
            [EDECallback(recipe.epochs, schedule), AverageStatistics(), *callbacks, self.outputs],
            model=model,
            epochs=recipe.epochs,
            steps=self.steps,
            verbose=0,
        )
        self.evaluate = feeding.Evaluation(
            model, self.data, self.preprocessing, self._stop_if_asked_to
        )
        self.average_statistics = replicas.make_average_statistics(model)
        self.progress = Progress(recipe.epochs, self.steps, quiet=not workers.is_chief)
        self.progress.say(
            opening(
                model=model,
                data=self.data,
                recipe=recipe,
                options=options,
                preprocessing=self.preprocessing,
                folder=self.shared.folder,
                initialized_from=self.identity["initialized_from"],
                resumed=(self.at.epoch, self.at.step),
            )
        )

    # ---- training ------------------------------------------------------------------------------

    def to_the_end(self) -> dict:
        """Train what is left; returns what result.json holds."""
        if self.at.rows and not self.at.step:  # it may have been killed before these were written
            self.outputs.set_model(self.model)
            self.outputs.write(final=self.at.epoch == self.recipe.epochs)
        if self.at.epoch < self.recipe.epochs:
            self.callbacks.on_train_begin()
            batches = feeding.training_batches(
                self.model,
                self.data,
                self.recipe,
                seed=self.options.seed,
                first_epoch=self.at.epoch,
                first_step=self.at.step,
                preprocessing=self.preprocessing,
            )
            iterator = iter(batches)
            while self.at.epoch < self.recipe.epochs:
                self._train_epoch(iterator)
            self.callbacks.on_train_end()
        result = {}
        self.at.keep(lambda: result.update(self.folder.write_result(self.outputs.rows)))
        return result

    def _train_epoch(self, iterator):
        self.callbacks.on_epoch_begin(self.at.epoch, {"first_step": self.at.step})
        self._saved = time.perf_counter()
        with self.progress.epoch(self.at.epoch + 1, self.at.step):
            train_function = self.model.make_train_function()
            while self.at.step < self.steps:
                logs = train_function(iterator)
                self.at.step += 1
                self.progress.after_step(self.at.step, logs, self._check_loss)
                if self.at.step < self.steps:
                    self._save_or_stop_if_due()
        trained = optimizers.totals(self.model)
        self._check_loss(trained["loss"])
        self._tested_batches = 0
        self.callbacks.on_test_begin()
        tested = self.evaluate()
        self._check_loss(tested["loss"])
        rate = self.recipe.learning_rate_schedule(self.steps)
        logs = {
            "loss": trained["loss"],
            "accuracy": trained["accuracy"],
            **{f"val_{name}": tested[name] for name in ("loss", "accuracy", "top5")},
            "test_images": tested["images"],
            "learning_rate": float(rate((self.at.epoch + 1) * self.steps - 1)),
        }
        self.callbacks.on_epoch_end(self.at.epoch, logs)
        self.progress.say(in_words(self.outputs.rows[-1], self.recipe.epochs))

    def _save_or_stop_if_due(self):
        if self.workers.several and self.at.step % _STEPS_BETWEEN_TALKS:
            return
        due = time.perf_counter() - self._saved > _CHECKPOINT_SECONDS
        stop, due = self.workers.any(bool(self.signals.received), due)
        if stop or due:
            self._check_loss(optimizers.totals(self.model)["loss"])  # before it is kept
            self.average_statistics()
            self._save()
            self._saved = time.perf_counter()
        if stop:
            self._stop()

    def _stop_if_asked_to(self):
        """Called after each batch of an evaluation."""
        self._tested_batches += 1
        if self.workers.several and self._tested_batches % _STEPS_BETWEEN_TALKS:
            return
        [stop] = self.workers.any(bool(self.signals.received))
        if stop:
            self._save()
            self._stop()

    def _stop(self):
        reason = self.signals.received or "a signal to another worker"
        raise Stopped(f"stopped by {reason} in epoch {self.at.epoch + 1}; saved")

    def _check_loss(self, loss: float):
        if not np.isfinite(loss):
            raise ValueError(
                f"the loss is {loss} in epoch {self.at.epoch + 1}; stopped, "
                f"{self.at.last_checkpoint()}. A lower learning_rate usually cures it"
            )

    # ---- saving --------------------------------------------------------------------------------

    def _save(self):
        self.at.save(self.outputs.rows)

    def _save_epoch(self):
        self.at.epoch += 1
        self.at.step = 0
        self.model.reset_metrics()
        self._save()

    def _describe(self, row: dict) -> dict:
        """Completes the model's description; returns what a weights file says beside it."""
        identity = self.identity
        results = {name: row[f"test_{name}"] for name in ("accuracy", "top5", "loss")}
        training = {
            "epoch": row["epoch"],
            "ede": identity["ede"],
            "mixed_precision": identity["mixed_precision"],
        }
        complete(self.model, identity, self.preprocessing, results, training)
        names = ("network", "arguments", "seed", "ede", "mixed_precision", "data")
        return {
            **{name: identity[name] for name in names},
            "epochs": self.recipe.epochs,
            "epoch": row["epoch"],
            "accuracy": row["test_accuracy"],
            "top5": row["test_top5"],
        }
