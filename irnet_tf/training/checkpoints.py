"""Checkpoints of a run, one at the end of each epoch."""

from __future__ import annotations

import json
import os
from pathlib import Path
import sys

import tensorflow as tf

_MAX_TO_KEEP = 3


class Checkpoints:
    """Saves and restores model, optimizer and rows of metrics.csv; keeps the last three.

    Args:
        model: Compiled model.
        folder: Folder of the checkpoints; created if missing.

    Attributes:
        epoch: Number of epochs in the last checkpoint that was saved or restored.
        rows: Rows of metrics.csv in that checkpoint.
    """

    def __init__(self, model: tf.keras.Model, folder: str | os.PathLike):
        self.epoch, self.rows = 0, []
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
        self._rows = tf.Variable("[]", trainable=False, dtype=tf.string)
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizer=model.optimizer, rows=self._rows
        )
        state = Path(folder) / "checkpoint"
        if state.exists() and not state.stat().st_size:  # a power cut emptied it
            state.unlink()
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), _MAX_TO_KEEP)

    def restore(self, folder: str | os.PathLike | None = None) -> int:
        """Restores the last checkpoint; skips damaged ones with a warning.

        Args:
            folder: Folder of the checkpoints, if another than the one to save in.

        Returns:
            The number of epochs in the checkpoint; 0 without one.

        Raises:
            ValueError: If no checkpoint can be read, or the model is another one.
        """
        folder = Path(folder or self._manager.directory)
        paths = [path.with_suffix("") for path in folder.glob("ckpt-*.index")]
        paths.sort(key=lambda path: int(path.name.removeprefix("ckpt-")), reverse=True)
        for path in paths:
            try:
                status = self._checkpoint.restore(str(path))
                status.assert_existing_objects_matched()
            except (tf.errors.OpError, IndexError) as error:
                print(f"skipped {path}: {str(error).splitlines()[0]}", file=sys.stderr)
            except (AssertionError, ValueError) as error:
                raise ValueError(
                    f"the checkpoint {path} is of another network; choose another output_dir, or "
                    "delete this run with overwrite"
                ) from error
            else:
                self.rows = json.loads(self._rows.numpy())
                self.epoch = len(self.rows)
                return self.epoch
        if tf.train.latest_checkpoint(folder):  # not that of a run killed in its first checkpoint
            raise ValueError(
                f"no checkpoint in {folder} can be read; delete the run with overwrite"
            )
        return 0

    def save(self, rows: list[dict]) -> None:
        """Saves the end of an epoch. All workers must call it."""
        self._rows.assign(json.dumps(rows))
        self._manager.save(checkpoint_number=len(rows))
        self.epoch, self.rows = len(rows), list(rows)
