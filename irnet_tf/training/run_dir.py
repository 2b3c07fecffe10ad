"""The run folder: what a training leaves behind."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from pathlib import Path
import statistics
import tempfile

from irnet_tf._utils import write_atomically
from irnet_tf.training.checkpoints import Checkpoints
from irnet_tf.training.identity import differences
from irnet_tf.training.lock import Lock
from irnet_tf.training.workers import Workers

FIELDS = (
    "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_top5",
    "learning_rate", "ede_t", "ede_k", "images_per_second", "seconds", "test_images",
)  # fmt: skip
COLUMNS = FIELDS[:11]
_SINCE = {"test_images": 0}  # columns that old files do not have


class RunFolder:
    """Files of one run: config.json, metrics.csv, curves.png, checkpoints/, tensorboard/,
    final and best weights, result.json, and details.csv if asked for."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.config = self.folder / "config.json"
        self.metrics = self.folder / "metrics.csv"
        self.curves = self.folder / "curves.png"
        self.checkpoints = self.folder / "checkpoints"
        self.tensorboard = self.folder / "tensorboard"
        self.final = self.folder / "final.safetensors"
        self.best = self.folder / "best.safetensors"
        self.result = self.folder / "result.json"
        self.details = self.folder / "details.csv"
        self.details_bits = self.folder / "details_bits.npz"
        self.failure = self.folder / "failure.txt"  # why a worker has left the others

    # ---- which run it is -----------------------------------------------------------------------

    def check_it_can_be_one(self) -> None:
        """Raises ValueError if the path, or a folder above it, is something else than a folder."""
        for path in (self.folder, *self.folder.parents):
            if path.is_dir():
                return
            if path.exists() or path.is_symlink():
                raise ValueError(f"output_dir {str(self.folder)!r}: {str(path)!r} is not a folder")

    def identity(self) -> dict | None:
        """Which run is there; None if there is none.

        Raises:
            ValueError: if what is there is not a run.
        """
        if not self.config.exists():
            ours = [self.metrics, self.checkpoints, self.final, self.best, self.result]
            strange = [path.name for path in ours if path.exists()]
            if strange:
                raise ValueError(
                    f"output_dir {str(self.folder)!r} holds {', '.join(strange)} but no "
                    "config.json that says which run they are of; choose another output_dir"
                )
            return None
        try:
            found = json.loads(self.config.read_text())["identity"]
            if isinstance(found, dict) and found:
                return found
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            pass
        raise ValueError(
            f"{str(self.config)!r} is not the config.json of a run; choose another output_dir"
        )

    def prepare(self, config: dict, *, resume: bool, overwrite: bool) -> None:
        """Make the folder ready for a run of this configuration.

        Args:
            config: of the run; what is under `"identity"` decides whether it is the same run.
            resume: whether a run that is there may be resumed.
            overwrite: whether a run that is there may be deleted.

        Raises:
            ValueError: if another run is there, or the same one and it is not to be resumed, or
                something that is not a run.
        """
        found = self.identity()
        if found is not None and overwrite:
            self._delete()
            found = None
        if found is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, json.dumps(config, indent=2) + "\n")
            return
        self.check(config["identity"])
        if not resume:
            raise ValueError(
                f"output_dir {str(self.folder)!r} holds this run already; resume it, or delete it "
                "with overwrite"
            )

    def check(self, identity: dict) -> None:
        """Make sure that the run in the folder is the one of this identity.

        Raises:
            ValueError: if there is none, or another.
        """
        found = self.identity()
        if found is None:
            raise ValueError(
                f"output_dir {str(self.folder)!r} does not hold what the chief worker has written "
                "there; it must be a folder that all workers share"
            )
        differing = differences(found, json.loads(json.dumps(identity)))
        if differing:
            raise ValueError(
                f"output_dir {str(self.folder)!r} holds another run ({'; '.join(differing)}); "
                "choose another output_dir, or delete that run with overwrite"
            )

    def _delete(self) -> None:
        """What a run writes, and nothing else; config.json last, which says that it is one."""
        Checkpoints(self.checkpoints).delete()
        if self.tensorboard.is_dir():
            for path in self.tensorboard.glob("events.out.tfevents.*"):
                path.unlink()
            if not any(self.tensorboard.iterdir()):
                self.tensorboard.rmdir()
        self.tidy()
        outputs = (self.metrics, self.curves, self.final, self.best, self.result)
        for path in (*outputs, self.details, self.details_bits, self.config):
            path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Delete what a killed run has left of files that it was writing."""
        for path in self.folder.glob(".*.tmp"):
            if path.name.startswith(tuple(f".{p.name}." for p in vars(self).values())):
                path.unlink(missing_ok=True)
        (self.folder / "curves.part.png").unlink(missing_ok=True)

    # ---- what it measured ----------------------------------------------------------------------

    def read_rows(self) -> list[dict]:
        """The rows of metrics.csv, in which epochs count from 1; of old files, too.

        Raises:
            ValueError: if the file is not a metrics.csv; says where.
        """
        if not self.metrics.exists():
            return []
        with open(self.metrics, newline="") as file:
            found = list(csv.DictReader(file))
        first = 0 if found and found[0].get("epoch") == "0" else 1  # old files count from 0
        rows = []
        for line, values in enumerate(found, start=2):
            try:
                row = {name: float({**_SINCE, **values}[name]) for name in FIELDS}
            except (KeyError, TypeError, ValueError):
                row = {"epoch": None}
            if row["epoch"] != line - 2 + first:
                raise ValueError(
                    f"{str(self.metrics)!r} is damaged in line {line}; restore it, or delete the "
                    "run with overwrite"
                )
            rows.append({**row, "epoch": line - 1})
        return rows

    def rows_of(self, kept: str, epoch: int) -> list[dict]:
        """The rows that belong to a checkpoint after so many epochs.

        Args:
            kept: as JSON, from the checkpoint; empty in old ones, whose rows are in metrics.csv.
            epoch: how many there must be.

        Raises:
            ValueError: if metrics.csv is needed and does not have them.
        """
        rows = json.loads(kept) if kept else self.read_rows()[:epoch] if epoch else []
        if len(rows) < epoch:
            raise ValueError(
                f"{str(self.metrics)!r} has {len(rows)} of the {epoch} epochs that were trained; "
                "restore it, or delete the run with overwrite"
            )
        return rows

    def write_rows(self, rows: list[dict]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
        writer.writeheader()
        whole = ("epoch", *_SINCE)
        for row in rows:
            writer.writerow({**row, **{name: int(row[name]) for name in whole}})
        write_atomically(self.metrics, text.getvalue())

    def write_result(self, rows: list[dict]) -> dict:
        """Sum up the run; see DESIGN. Accuracies are fractions of all test images."""

        def entry(row):
            names = {"accuracy": "test_accuracy", "top5": "test_top5", "loss": "test_loss"}
            return {"epoch": int(row["epoch"]), **{k: row[v] for k, v in names.items()}}

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


def open_run_folder(
    shared: RunFolder,
    config: dict,
    workers: Workers,
    stack: contextlib.ExitStack,
    *,
    resume: bool,
    overwrite: bool,
) -> RunFolder:
    """Lock and prepare a run folder, or wait until the chief has. All workers must call it.

    All write, because saving averages statistics that replicas have of their own; the chief's
    files are kept. `stack` holds what is to be given back: lock, folder aside.

    Returns:
        The folder that this worker writes in: the run folder if it is the chief, else one aside.

    Raises:
        ValueError: if the folder is in use, or does not go with the configuration.
    """

    def take():
        made = not shared.folder.exists()
        shared.folder.mkdir(parents=True, exist_ok=True)
        try:
            stack.callback(Lock(shared.folder).release)
            shared.prepare(config, resume=resume, overwrite=overwrite)
            shared.failure.unlink(missing_ok=True)
        except BaseException:
            stack.close()
            if made and not any(shared.folder.iterdir()):
                shared.folder.rmdir()
            raise

    workers.together(take if workers.is_chief else lambda: None)
    workers.together(lambda: shared.check(config["identity"]))
    if workers.is_chief:
        shared.tidy()
        return shared
    return RunFolder(stack.enter_context(tempfile.TemporaryDirectory()))
