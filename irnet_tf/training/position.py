"""Where a run is, restored from its checkpoints and saved to them."""

from __future__ import annotations

from collections.abc import Callable
import json

from irnet_tf.training.checkpoints import Checkpoints
from irnet_tf.training.optimizer import metrics_of
from irnet_tf.training.run_dir import RunFolder
from irnet_tf.training.workers import Workers
import tensorflow as tf

_CANNOT_WRITE = (
    OSError,
    tf.errors.ResourceExhaustedError,
    tf.errors.PermissionDeniedError,
    tf.errors.NotFoundError,
)


class Position:
    """A run's epoch and step, and the rows of the epochs that were trained.

    Checkpoints hold these, model, optimizer and metrics.

    Args:
        model: compiled by `irnet_tf.training.compile_model`.
        folder: where this worker saves.
        shared: the run folder, from which all workers restore.
        workers: all must restore and save together.

    Attributes:
        epoch: how many epochs were trained.
        step: how many steps of the next one.
        rows: of metrics.csv, as they were restored.
    """

    def __init__(
        self, model: tf.keras.Model, folder: RunFolder, shared: RunFolder, workers: Workers
    ):
        self.epoch, self.step, self.rows = 0, 0, []
        self._folder = folder
        self._shared = shared
        self._workers = workers
        self._variables = {
            "epoch": tf.Variable(0, trainable=False, dtype=tf.int64, name="epoch"),
            "step": tf.Variable(0, trainable=False, dtype=tf.int64, name="step"),
            "rows": tf.Variable("", trainable=False, dtype=tf.string, name="rows"),
        }
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
        objects = {
            "model": model,
            "optimizer": model.optimizer,
            "metrics": tf.train.Checkpoint(**metrics_of(model)),
            **self._variables,
        }
        self._own = Checkpoints(folder.checkpoints, **objects)
        self._found = Checkpoints(shared.checkpoints, **objects)

    def restore(self) -> None:
        """From the last checkpoint that can be read; without one the run is at its beginning.

        Raises:
            ValueError: if there are checkpoints and none is of this run, metrics.csv is needed
                and does not go with it, or the workers find different things.
        """
        if self._workers.is_chief:
            self._found.tidy()
        self._workers.together(self._found.restore)
        self._own.number_from(self._found)
        self.epoch = int(self._variables["epoch"])
        self.step = int(self._variables["step"])
        self.rows = self._shared.rows_of(self._variables["rows"].numpy().decode(), self.epoch)
        self._workers.check_all_found_the_same(
            (self.epoch, self.step, len(self.rows)), str(self._shared.folder)
        )

    def save(self, rows: list[dict]) -> None:
        """A checkpoint of this epoch and step. All workers must call it.

        Raises:
            OSError: if it cannot be written.
        """
        values = {"epoch": self.epoch, "step": self.step, "rows": json.dumps(rows)}
        for name, value in values.items():
            self._variables[name].assign(value)
        self.keep(self._own.save)

    def keep(self, action: Callable[[], None]) -> None:
        """Write something on all workers; if that fails, say why and what is left."""

        def explain():
            try:
                action()
            except _CANNOT_WRITE as error:
                raise OSError(
                    f"cannot save in {self._folder.folder}: {str(error).splitlines()[0]}; "
                    f"{self.last_checkpoint()}. Make room, then give the same command again"
                ) from error

        self._workers.together(explain)

    def last_checkpoint(self) -> str:
        """Which it is, in words."""
        return self._found.last()
