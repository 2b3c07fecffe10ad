"""What `train` does at the edges of an epoch, as Keras callbacks that `fit` takes as well."""

from __future__ import annotations

from collections.abc import Callable
import os
import time
import warnings

from irnet_tf import weights
from irnet_tf.data import evaluation_batches
from irnet_tf.training import curves
from irnet_tf.training.optimizer import gives_logits
from irnet_tf.training.replicas import make_average_statistics
from irnet_tf.training.run_dir import FIELDS, RunFolder, best_row
import tensorflow as tf

_DETAILS_BATCH = 128
_NAMES = {
    "loss": "train_loss",
    "accuracy": "train_accuracy",
    "val_loss": "test_loss",
    "val_accuracy": "test_accuracy",
    "val_top5": "test_top5",
    "test_images": "test_images",
}


class AverageStatistics(tf.keras.callbacks.Callback):
    """Gives all replicas the mean of their batch norms' statistics before they are evaluated.

    Replicas keep their own in training. A checkpoint holds their mean, and so does a weights
    file. On one device there is nothing to do.
    """

    _average = None

    def on_train_begin(self, logs=None):
        self._average = make_average_statistics(self.model)

    def on_test_begin(self, logs=None):
        if self._average:
            self._average()

    def on_epoch_end(self, epoch, logs=None):
        if self._average:
            self._average()


class RunLogger(tf.keras.callbacks.Callback):
    """Writes metrics.csv, curves.png, TensorBoard's logs, best and final weights.

    At an epoch's end the row of metrics.csv is made, then `checkpoint` is called, and then
    everything is written that follows from the rows: what was killed in between is made up for by
    `write`. Of an epoch whose logs have no `accuracy` or `val_accuracy`, there is a warning and a
    zero. Put it after callbacks that add to the logs, such as `EDECallback`.

    Args:
        folder: the run folder; made if it is not there.
        batch_size: global, for images a second.
        title: of the curves.
        rows: of the epochs that were trained before.
        describe: gives what the weights file says of the run, of a row of metrics.csv.
        keep: calls what it is given, and explains what goes wrong in saving.
        checkpoint: called once the row is there.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        batch_size: int = 0,
        title: str = "",
        rows: list[dict] = (),
        describe: Callable[[dict], dict] = lambda row: {},
        keep: Callable[[Callable[[], None]], None] = lambda action: action(),
        checkpoint: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self.rows = list(rows)
        self._folder = RunFolder(folder)
        self._batch_size = batch_size
        self._title = title
        self._describe = describe
        self._keep = keep
        self._checkpoint = checkpoint
        self._writer = None
        self._wrote_final = False
        self._began = self._trained = time.perf_counter()
        self._first_step = 0

    def on_train_begin(self, logs=None):
        self._folder.folder.mkdir(parents=True, exist_ok=True)

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()
        self._trained = None
        self._first_step = (logs or {}).get("first_step", 0)

    def on_test_begin(self, logs=None):
        self._trained = self._trained or time.perf_counter()

    def on_train_end(self, logs=None):
        if self.rows and not self._wrote_final:  # such as of early stopping
            self.write(final=True)

    def on_epoch_end(self, epoch, logs=None):
        if missing := {"accuracy", "val_accuracy"} - set(logs or {}):
            warnings.warn(
                f"the epoch's logs lack {', '.join(sorted(missing))}, of which zeros are kept: "
                'compile with metrics=["accuracy"] (or irnet_tf.training.compile_model), and give '
                "fit validation_data, for each epoch",
                stacklevel=2,
            )
        now = time.perf_counter()
        steps = (self.params.get("steps") or 0) - self._first_step
        row = {
            **dict.fromkeys(FIELDS, 0.0),
            **{_NAMES.get(name, name): value for name, value in (logs or {}).items()},
            "epoch": epoch + 1,
            "images_per_second": steps * self._batch_size / ((self._trained or now) - self._began),
            "seconds": now - self._began,
        }
        if "learning_rate" not in (logs or {}):
            row["learning_rate"] = float(tf.convert_to_tensor(self.model.optimizer.learning_rate))
        self.rows.append({name: row[name] for name in FIELDS})
        self._checkpoint()
        self._keep(self._log)
        self.write(final=epoch + 1 == self.params.get("epochs"))

    def write(self, final: bool) -> None:
        """What follows from the rows and the weights at the end of the last of them.

        Args:
            final: whether it is the last epoch of the run.
        """
        row = self.rows[-1]
        if best_row(self.rows) is row:
            self._keep(lambda: self._save(self._folder.best, row))
        self._wrote_final = final
        if final:
            self._keep(lambda: self._save(self._folder.final, row))
        self._keep(lambda: self._folder.write_rows(self.rows))
        self._keep(lambda: curves.draw(self.rows, self._title, self._folder.curves))

    def _save(self, path, row):
        weights.save_weights(self.model, path, self._describe(row))

    def _log(self):
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder.tensorboard))
        row = self.rows[-1]
        with self._writer.as_default(step=row["epoch"]):
            for name, value in row.items():
                tf.summary.scalar(name, value)
        self._writer.flush()


def details(model, data, preprocessing, folder) -> tf.keras.callbacks.Callback:
    """What logs each layer's flips, gradient norm and histogram, on the first test images."""
    from irnet_tf.training.details import LayerDetails

    batch = None
    if model.distribute_strategy.num_replicas_in_sync == 1:
        count = min(_DETAILS_BATCH, data.test.num_examples)
        batches = evaluation_batches(data.test, batch_size=count, preprocessing=preprocessing)
        batch = next(iter(batches))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(gives_logits(model), reduction="none")
    return LayerDetails(folder, batch, loss)
