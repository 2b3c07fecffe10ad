"""The run folder: which run it holds, its checkpoints, metrics and result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import csv
import json
import os
from pathlib import Path
import shutil
import statistics
import sys

import filelock
from irnet_tf._utils import csv_text, write_atomically
import tensorflow as tf

_MAX_CHECKPOINTS = 3

COLUMNS = (
    "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_top5",
    "learning_rate", "ede_t", "ede_k", "images_per_second", "seconds",
)  # fmt: skip


class RunDir:
    """Paths of a run folder.

    Attributes:
        path: The folder.
        config, metrics, curves, checkpoints, tensorboard, final, best, result, details: Its files
            and subfolders.
        reason: Why a worker has stopped.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.csv"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.final = self.path / "final.safetensors"
        self.best = self.path / "best.safetensors"
        self.result = self.path / "result.json"
        self.details = self.path / "details.csv"
        self.reason = self.path / ".stopped"
        self._lock = self.path / ".lock"
        self._files = (self.metrics, self.curves, self.final, self.best, self.result, self.details)

    def read_config(self) -> dict | None:
        """The content of config.json; None if the folder is missing or empty.

        Raises:
            ValueError: If the folder holds something else than a run.
        """
        if not self.config.exists():
            found = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
            ours = (self._lock.name, self.reason.name, f".{self.config.name}.")  # failed early
            if found := [name for name in found if not name.startswith(ours)]:
                raise ValueError(
                    f"output_dir {str(self.path)!r} holds files that are not of a run "
                    f"({', '.join(found[:3])}); choose an empty or a new folder"
                )
            return None
        try:
            config = json.loads(self.config.read_text())
            if isinstance(config["identity"], dict) and config["identity"]:
                return config
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            pass
        raise ValueError(
            f"{str(self.config)!r} is not the config.json of a run; choose another output_dir"
        )

    @contextlib.contextmanager
    def opened(self, config: dict, *, resume: bool = True, overwrite: bool = False) -> Iterator:
        """Creates the folder for a run; no other process can use it within the context.

        Args:
            config: Content of config.json; `config["identity"]` identifies the run.
            resume: Allow resuming the same run.
            overwrite: Delete a run that is in the folder.

        Raises:
            ValueError: If another process uses the folder, or it holds something else, another
                run, or the same run without `resume`.
        """
        self.read_config()  # raises unless the folder is ours or empty
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(self._lock, timeout=0):
                for path in self.path.glob(".*.tmp"):  # half-written files of a killed run
                    path.unlink()
                self.reason.unlink(missing_ok=True)
                found = self.read_config()
                if found and overwrite:
                    self._delete()
                elif found:
                    self.check(config["identity"])
                    if not resume:
                        raise ValueError(
                            f"output_dir {str(self.path)!r} holds this run already; resume it, or "
                            "delete it with overwrite"
                        )
                if not found or overwrite:
                    write_atomically(self.config, json.dumps(config, indent=2) + "\n")
                yield
        except filelock.Timeout:
            raise ValueError(
                f"output_dir {str(self.path)!r} is in use by another process; wait for its end, or "
                "choose another output_dir"
            ) from None

    def check(self, identity: dict) -> None:
        """Raises ValueError unless the folder holds the run with this identity."""
        config = self.read_config()
        if config is None:
            raise ValueError(
                f"output_dir {str(self.path)!r} lacks the config.json that the chief worker has "
                "written; it must be a folder that all workers share"
            )
        found, wanted = flatten(config["identity"]), flatten(json.loads(json.dumps(identity)))
        if different := sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k)):
            changes = [f"{k}: {found.get(k)!r}, now {wanted.get(k)!r}" for k in different]
            raise ValueError(
                f"output_dir {str(self.path)!r} holds another run ({'; '.join(changes)}); choose "
                "another output_dir, or delete that run with overwrite"
            )

    def _delete(self) -> None:
        """Deletes the run; config.json, which identifies it, last."""
        for folder in (self.checkpoints, self.tensorboard):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (*self._files, self.config):
            path.unlink(missing_ok=True)

    def read_result(self) -> dict | None:
        """The content of result.json; None if the run is not finished."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self.result.read_text())

    def write_metrics(self, rows: list[dict]) -> None:
        """Writes metrics.csv."""
        text = csv_text(COLUMNS, ([row[name] for name in COLUMNS] for row in rows))
        write_atomically(self.metrics, text)

    def write_result(self, rows: list[dict]) -> dict:
        """Writes result.json, which marks the run as finished, and returns its content."""

        def entry(row):
            names = {"accuracy": "test_accuracy", "top5": "test_top5", "loss": "test_loss"}
            return {"epoch": row["epoch"], **{k: row[v] for k, v in names.items()}}

        result = {
            "final": entry(rows[-1]),
            "best": entry(best_row(rows)),
            "images_per_second": statistics.median(r["images_per_second"] for r in rows),
            "seconds": sum(r["seconds"] for r in rows),
        }
        write_atomically(self.result, json.dumps(result, indent=2) + "\n")
        return result


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
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), _MAX_CHECKPOINTS)

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


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """Rows of a `metrics.csv`, one per epoch; epochs count from 1.

    Args:
        path: Run folder, or the file itself.

    Raises:
        ValueError: If the file is damaged; names the line.
        OSError: If the file cannot be read.
    """
    path = Path(path)
    path = path / "metrics.csv" if path.is_dir() else path
    rows = []
    with open(path, newline="") as file:
        for line, values in enumerate(csv.DictReader(file), start=2):
            try:
                row = {name: float(values[name]) for name in COLUMNS}
            except (KeyError, TypeError, ValueError):
                row = {"epoch": None}
            if row["epoch"] != line - 1:
                raise ValueError(
                    f"{str(path)!r} is damaged in line {line}; expected epoch {line - 1} and the "
                    f"columns {', '.join(COLUMNS)}"
                )
            rows.append({**row, "epoch": line - 1})
    return rows


def best_row(rows: list[dict]) -> dict:
    """The first epoch with the highest test accuracy."""
    return max(rows, key=lambda row: row["test_accuracy"])


def flatten(values: Mapping, prefix: str = "") -> dict:
    """Nested values by dotted names; a quantizer's Keras configuration is one value."""
    flat = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value and "class_name" not in value
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat
