"""The run folder: what a training leaves behind."""

from __future__ import annotations

import csv
from importlib import metadata
import io
import json
import os
from pathlib import Path
import platform
import shutil
import statistics

FIELDS = (
    "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_top5",
    "learning_rate", "ede_t", "ede_k", "images_per_second", "seconds",
)  # fmt: skip


def write_text(path: Path, text: str) -> None:
    """Write aside, then rename: whoever looks sees the old file or the new one whole."""
    part = path.with_name(path.name + ".part")
    with open(part, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("irnet_tf", "tensorflow", "tf_keras", "larq", "tensorflow-datasets", "numpy")
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}


class RunFolder:
    """Files of one run: config.json, metrics.csv, curves.png, checkpoints/, tensorboard/,
    final and best weights, result.json."""

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

    def prepare(self, config: dict, *, resume: bool, overwrite: bool) -> None:
        """Make the folder ready for a run of this configuration.

        Args:
            config: of the run; what is under `"identity"` decides whether it is the same run.
            resume: whether a run that is there may be gone on with.
            overwrite: whether a run that is there may be deleted.

        Raises:
            ValueError: if another run is there, or the same one and it is not to be resumed.
        """
        if overwrite:
            for path in vars(self).values():
                if path != self.folder and path.exists():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.config.exists():
            self.check(config["identity"])
            if not resume:
                raise ValueError(
                    f"output_dir {str(self.folder)!r} holds this run already; leave --resume on "
                    "to go on with it, or delete it with --overwrite"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.config, json.dumps(config, indent=2) + "\n")

    def check(self, identity: dict) -> None:
        """Make sure that the run in the folder is the one of this identity.

        Raises:
            ValueError: if there is none, or another.
        """
        if not self.config.exists():
            raise ValueError(
                f"output_dir {str(self.folder)!r} does not hold what the chief worker has written "
                "there; it must be a folder that all workers share"
            )
        found = json.loads(self.config.read_text())["identity"]
        differing = _differences(found, json.loads(json.dumps(identity)))
        if differing:
            raise ValueError(
                f"output_dir {str(self.folder)!r} holds another run ({'; '.join(differing)}); "
                "choose another --output_dir, or delete it with --overwrite"
            )

    def read_rows(self, epochs: int) -> list[dict]:
        """The first `epochs` rows of metrics.csv."""
        if not self.metrics.exists():
            return []
        with open(self.metrics, newline="") as file:
            rows = [{name: float(row[name]) for name in FIELDS} for row in csv.DictReader(file)]
        return rows[:epochs]

    def write_rows(self, rows: list[dict]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "epoch": int(row["epoch"])})
        write_text(self.metrics, text.getvalue())

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
        write_text(self.result, json.dumps(result, indent=2) + "\n")
        return result

    def plot(self, rows: list[dict], title: str) -> None:
        """Loss and accuracy over epochs, and the learning rate and EDE's t that led there."""
        from matplotlib.figure import Figure

        epochs = [row["epoch"] + 1 for row in rows]
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        figure.suptitle(title)
        accuracy, loss, course = figure.subplots(1, 3)
        for split in ("train", "test"):
            style = {"label": split, "marker": "." if len(rows) < 30 else None}
            accuracy.plot(epochs, [100 * r[f"{split}_accuracy"] for r in rows], **style)
            loss.plot(epochs, [r[f"{split}_loss"] for r in rows], **style)
        course.plot(epochs, [r["learning_rate"] for r in rows], label="learning rate")
        course.plot(epochs, [r["ede_t"] for r in rows], label="EDE's t")
        best = best_row(rows)
        accuracy.set_title(
            f"accuracy, % (best {100 * best['test_accuracy']:.2f}, epoch {best['epoch'] + 1:.0f})"
        )
        loss.set_title("cross-entropy")
        course.set_title("learning rate and t")
        for axes in (loss, course):
            axes.set_yscale("log")
        for axes in (accuracy, loss, course):
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.3)
            axes.legend()
        part = self.curves.with_name("curves.part.png")
        figure.savefig(part, dpi=110)
        os.replace(part, self.curves)


def best_row(rows: list[dict]) -> dict:
    """The first epoch with the highest test accuracy."""
    return max(rows, key=lambda row: row["test_accuracy"])


def _differences(found: dict, wanted: dict, prefix: str = "") -> list[str]:
    differing = []
    for key in sorted({*found, *wanted}):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            differing += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            differing.append(f"{prefix}{key}: {a!r} there, {b!r} asked for")
    return differing
