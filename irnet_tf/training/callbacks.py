"""The callbacks of `train`, which `Model.fit` takes as well."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
import warnings

from irnet_tf import weights
from irnet_tf.model_config import get_model_config, set_model_config
from irnet_tf.training import curves
from irnet_tf.training.run_dir import COLUMNS, Checkpoints, RunDir, best_row
import numpy as np
import tensorflow as tf
from tqdm import tqdm

_NAMES = {
    "loss": "train_loss",
    "accuracy": "train_accuracy",
    "val_loss": "test_loss",
    "val_accuracy": "test_accuracy",
    "val_top5": "test_top5",
}
_CANNOT_WRITE = (OSError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError)
_SECONDS_BETWEEN_CHECKS = 5  # of the loss


class Stopped(SystemExit):
    """The run was stopped by SIGTERM or Ctrl-C; the same command resumes it."""


class AverageStatistics(tf.keras.callbacks.Callback):
    """Averages the batch norm statistics of all replicas before evaluation and at an epoch's end.

    During an epoch each replica updates its own.
    """

    _average = None

    def on_train_begin(self, logs=None):
        if self.model.distribute_strategy.num_replicas_in_sync == 1:
            return
        statistics = [
            variable
            for variable in self.model.non_trainable_variables
            if variable.synchronization == tf.VariableSynchronization.ON_READ
        ]

        @tf.function
        def average():
            for variable in statistics:
                variable.assign(variable.read_value())  # the mean of all replicas

        self._average = average

    def on_test_begin(self, logs=None):
        if self._average:
            self._average()

    def on_epoch_end(self, epoch, logs=None):
        self.on_test_begin()


class TerminateOnNaN(tf.keras.callbacks.Callback):
    """Raises ValueError if the loss is NaN or infinite; the last checkpoint stays as it is.

    Put it before `RunLogger`.
    """

    def __init__(self):
        super().__init__()
        self._supports_tf_logs = True  # the loss is copied from the device in few steps only
        self._checked = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if time.perf_counter() - self._checked > _SECONDS_BETWEEN_CHECKS:
            self._check(logs["loss"])
            self._checked = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        for name in ("loss", "val_loss"):
            self._check((logs or {}).get(name, 0.0))

    def _check(self, loss):
        if not np.isfinite(float(loss)):
            raise ValueError(
                f"the loss is {float(loss)} in epoch {self._epoch + 1}; the last checkpoint is "
                f"that of epoch {self._epoch}. A lower learning_rate usually cures it"
            )


class StopOnSignal(tf.keras.callbacks.Callback):
    """Raises `Stopped` after the current step on SIGTERM or Ctrl-C.

    A second Ctrl-C raises KeyboardInterrupt at once. Signals reach the main thread only.
    """

    def __init__(self):
        super().__init__()
        self._supports_tf_logs = True
        self._received = None
        self._handlers = {}

    def on_train_begin(self, logs=None):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._handle)

    def on_train_end(self, logs=None):
        self.restore_handlers()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self._received:
            raise Stopped(f"stopped by {self._received}; {self._cure()}")

    on_test_batch_end = on_train_batch_end

    def restore_handlers(self) -> None:
        """Restores the signal handlers; `fit` does not if it ends with an error."""
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _handle(self, number, frame):
        name = signal.Signals(number).name
        if self._received == name == "SIGINT":
            raise KeyboardInterrupt
        self._received = self._received or name
        text = f"\n{name}: stopping after this step; {self._cure()}\n"
        os.write(2, text.encode())  # print is not reentrant

    def _cure(self):
        after = f"resumes after epoch {self._epoch}" if self._epoch else "starts again"
        return f"the same command {after}"


class Progress(tf.keras.callbacks.Callback):
    """A progress bar on a terminal, otherwise a line every 30 seconds; a line per epoch.

    Put it after `RunLogger`.
    """

    def __init__(self):
        super().__init__()
        self._supports_tf_logs = True
        self._bar = None
        self._compiled = False

    def on_epoch_begin(self, epoch, logs=None):
        self._title = f"epoch {epoch + 1}/{self.params['epochs']}"
        self._bar = tqdm(
            desc=self._title, total=self.params["steps"], unit="step", leave=False, disable=None
        )
        self._interval = float(os.environ.get("TQDM_MININTERVAL", 30 if self._bar.disable else 1))
        self._shown = time.perf_counter()
        if not self._compiled:
            self._show("compiling the training step ...")

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update()
        if not self._compiled or time.perf_counter() - self._shown >= self._interval:
            self._compiled = True
            self._show(
                f"loss {float(logs['loss']):.3f}, accuracy {float(logs['accuracy']):.1%}",
                f"step {batch + 1}/{self.params['steps']}, ",
            )

    def on_epoch_end(self, epoch, logs=None):
        self.close()
        if logs and "val_accuracy" in logs:
            print(
                f"{self._title}: loss {logs['loss']:.4f}, training accuracy "
                f"{logs['accuracy']:.2%}, test accuracy {logs['val_accuracy']:.2%}, "
                f"{logs['images_per_second']:.0f} images/s, {logs['seconds']:.0f} s",
                flush=True,
            )

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, text, step=""):
        self._shown = time.perf_counter()
        if self._bar.disable:
            print(f"{self._title}: {step}{text}", file=sys.stderr, flush=True)
        else:
            self._bar.set_postfix_str(text)


class RunLogger(tf.keras.callbacks.Callback):
    """Writes metrics.csv, curves.png, TensorBoard logs, and the best and final weights.

    At an epoch's end the checkpoint is saved first, with the rows of metrics.csv. The other files
    are written from these rows, and written again when the run is resumed. The weights files hold
    the epoch's results. Put it after callbacks that add to the logs, such as `EDECallback`.

    Args:
        run_dir: Run folder; created if missing.
        batch_size: Global batch size, for `images_per_second`.
        title: Title of the curves.
        checkpoints: Saves model and optimizer; `checkpoints.rows` are the rows of earlier epochs.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        *,
        batch_size: int = 0,
        title: str = "",
        checkpoints: Checkpoints | None = None,
    ):
        super().__init__()
        self.rows = list(checkpoints.rows) if checkpoints else []
        self._run_dir = RunDir(run_dir)
        self._batch_size = batch_size
        self._title = title
        self._checkpoints = checkpoints

    def on_train_begin(self, logs=None):
        weights.packed_size(self.model)  # raises if a weights file cannot hold the model
        self._run_dir.path.mkdir(parents=True, exist_ok=True)
        self._writer = tf.summary.create_file_writer(str(self._run_dir.tensorboard))
        if self.rows:  # the run may have been killed before these files were written
            self._write_files()

    def on_epoch_begin(self, epoch, logs=None):
        self._start, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs=None):
        self._trained = self._trained or time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        if missing := {"accuracy", "val_accuracy"} - set(logs):
            warnings.warn(
                f"{', '.join(sorted(missing))} missing in the epoch's logs; metrics.csv holds 0: "
                "use irnet_tf.training.compile_model, and give fit validation_data",
                stacklevel=2,
            )
        now = time.perf_counter()
        images = (self.params.get("steps") or 0) * self._batch_size
        logs["images_per_second"] = images / ((self._trained or now) - self._start)
        logs["seconds"] = now - self._start
        logs["learning_rate"] = float(tf.convert_to_tensor(self.model.optimizer.learning_rate))
        row = {**dict.fromkeys(COLUMNS, 0.0), **{_NAMES.get(k, k): v for k, v in logs.items()}}
        self.rows.append({**{name: float(row[name]) for name in COLUMNS}, "epoch": epoch + 1})
        with self._explained():
            if self._checkpoints:
                self._checkpoints.save(self.rows)
            with self._writer.as_default(step=epoch + 1):
                for name, value in self.rows[-1].items():
                    tf.summary.scalar(name, value)
            self._writer.flush()
        self._write_files()

    def on_train_end(self, logs=None):
        if self.rows:
            self._save_weights(self._run_dir.final)

    def _write_files(self):
        if best_row(self.rows) is self.rows[-1]:
            self._save_weights(self._run_dir.best)
        with self._explained():
            self._run_dir.write_metrics(self.rows)
            curves.draw(self.rows, self._title, self._run_dir.curves)

    def _save_weights(self, path):
        row, config = self.rows[-1], get_model_config(self.model)
        if config and config.tensors_sha256 is None:  # not the config of a file's weights
            results = {name: row[f"test_{name}"] for name in ("accuracy", "top5", "loss")}
            training = {**(config.training or {}), "epoch": row["epoch"]}
            config = dataclasses.replace(config, results=results, training=training)
            set_model_config(self.model, config)
        with self._explained():
            weights.save_weights(self.model, path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Adds to an error of the disk what is left and what to do."""
        try:
            yield
        except _CANNOT_WRITE as error:
            epoch = self._checkpoints.epoch if self._checkpoints else 0
            raise OSError(
                f"cannot write {self._run_dir.path}: {str(error).splitlines()[0]}. The last "
                f"checkpoint is that of epoch {epoch}: free space, then use the same command"
            ) from error
