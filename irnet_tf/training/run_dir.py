"""The run folder: which run it holds, its metrics and its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import csv
import io
import json
import os
from pathlib import Path
import shutil
import statistics

import filelock
from irnet_tf._utils import write_atomically

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

    def check_path(self) -> None:
        """Raises ValueError if the path or one of its parents is a file."""
        for path in (self.path, *self.path.parents):
            if path.is_dir():
                return
            if path.exists() or path.is_symlink():
                raise ValueError(f"output_dir {str(self.path)!r}: {str(path)!r} is not a folder")

    def read_config(self) -> dict | None:
        """The content of config.json; None if the folder is missing or empty.

        Raises:
            ValueError: If the folder holds something else than a run.
        """
        if not self.config.exists():
            found = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
            ours = (
                self._lock.name,
                self.reason.name,
                f".{self.config.name}.",
            )  # run that failed early
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
    def locked(self) -> Iterator[None]:
        """Creates the folder; no other process can use it within the context.

        Raises:
            ValueError: If another process uses it.
        """
        self.read_config()  # raises unless the folder is ours or empty
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(self._lock, timeout=0):
                names = tuple(f".{path.name}." for path in (*self._files, self.config))
                for path in self.path.glob(".*.tmp"):  # half-written files of a killed run
                    if path.name.startswith(names):
                        path.unlink()
                yield
        except filelock.Timeout:
            raise ValueError(
                f"output_dir {str(self.path)!r} is in use by another process; wait for its end, or "
                "choose another output_dir"
            ) from None

    def prepare(self, config: dict, *, resume: bool, overwrite: bool) -> None:
        """Prepares the folder for a run.

        Args:
            config: Content of config.json; `config["identity"]` identifies the run.
            resume: Allow resuming the same run.
            overwrite: Delete a run that is in the folder.

        Raises:
            ValueError: If the folder holds another run, or the same one without `resume`.
        """
        found = self.read_config()
        if found and overwrite:
            self._delete()
        elif found:
            self.check(config["identity"])
            if not resume:
                raise ValueError(
                    f"output_dir {str(self.path)!r} holds this run already; resume it, or delete "
                    "it with overwrite"
                )
        if not found or overwrite:
            write_atomically(self.config, json.dumps(config, indent=2) + "\n")
        self.reason.unlink(missing_ok=True)

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
        """Deletes the files of the run; config.json, which identifies it, last."""
        for folder, pattern in ((self.checkpoints, "*ckpt*"), (self.tensorboard, "events.*")):
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            with contextlib.suppress(OSError):  # missing, or holds other files
                (folder / "checkpoint").unlink(missing_ok=True)
                folder.rmdir()
        for path in (*self._files, self.config):
            path.unlink(missing_ok=True)

    def read_result(self) -> dict | None:
        """The content of result.json; None if the run is not finished."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self.result.read_text())

    def write_metrics(self, rows: list[dict]) -> None:
        """Writes metrics.csv."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.metrics, text.getvalue())

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
