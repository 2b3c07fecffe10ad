"""What the folder of a training run says; of all versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import json
from pathlib import Path

# Of metrics.csv, in all versions.
_COLUMNS = {
    *("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"),
    *("images_per_second", "seconds"),
}
# Of config.json's identity: the seed, and what follows from data and network.
_NO_CHANGE = ("network", "seed", "data.classes", "recipe.data", "arguments.num_classes")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        name: of its folder.
        network, data: as in config.json; "" where there is none.
        seed: None where it is not known.
        settings: what else decides how the run went, from a dotted name to its value.
        rows: of metrics.csv, with numbers; epochs are counted from 1.
        epochs: how many it should have; None where it is not known.
        shipped: test accuracy of the weights that were shipped, measured in float32 whatever the
            training computed in; None where none were.
    """

    name: str
    network: str
    data: str
    seed: int | None
    settings: Mapping
    rows: Sequence[Mapping[str, float]]
    epochs: int | None = None
    shipped: float | None = None

    @property
    def last(self) -> Mapping[str, float]:
        return self.rows[-1]

    @property
    def best(self) -> Mapping[str, float]:
        """The first epoch with the highest test accuracy."""
        return max(self.rows, key=lambda row: row["test_accuracy"])


def read_run(path) -> Run:
    """A run from its folder, or from its metrics.csv alone.

    Runs of all versions: some count epochs from 0.

    Raises:
        ValueError: if there is no epoch yet, or a file is not what it should be.
        OSError: if it cannot be read.
    """
    path = Path(path)
    metrics = path if path.is_file() else path / "metrics.csv"
    try:
        with open(metrics, newline="") as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        if not rows:
            raise ValueError("no epoch has ended yet")
        if missing := _COLUMNS - set(rows[0]):
            raise ValueError(f"it lacks the column(s) {sorted(missing)}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{metrics}: {error}; it should be the metrics.csv of a run") from error
    first = rows[0]["epoch"]
    rows = [{**row, "epoch": row["epoch"] + 1 - first} for row in rows]
    config = path / "config.json"
    name = path.resolve().name
    if path.is_file():
        name = path.resolve().parent.name if path.name == "metrics.csv" else path.stem
    identity = None
    if config.exists():
        try:
            identity = json.loads(config.read_text()).get("identity")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{config}: {error}; it should be the config.json of a run") from error
    if identity is None:  # of `fit`, or somebody's own
        return Run(name, "", "", None, {}, rows)
    settings = _flat(identity)
    result = path / "result.json"
    result = json.loads(result.read_text()) if result.exists() else {}
    return Run(
        name=name,
        network=identity["network"],
        data=identity["data"]["name"],
        seed=identity.get("seed"),
        settings={k: v for k, v in settings.items() if k not in _NO_CHANGE},
        rows=rows,
        epochs=settings.get("recipe.epochs"),
        shipped=result.get("shipped", {}).get("accuracy"),
    )


def find_runs(paths: Iterable) -> list[Path]:
    """The run folders among and below `paths`; a file is taken as it is.

    Raises:
        ValueError: if there is none at one of them.
    """
    found = []
    for path in map(Path, paths):
        if path.is_file() or (path / "metrics.csv").exists():
            runs = [path]
        else:
            runs = sorted(file.parent for file in path.rglob("metrics.csv"))
        if not runs:
            raise ValueError(f"{path} is no run folder and holds none: it has no metrics.csv")
        found += [run for run in runs if run not in found]
    return found


def nameless(value):
    """A quantizer's configuration without its name and type, which Keras gives; else the same."""
    if not isinstance(value, Mapping) or not {"class_name", "config"} <= set(value):
        return value
    config = {k: v for k, v in value["config"].items() if k not in ("name", "dtype")}
    return {**value, "config": config}


def _flat(values: Mapping, prefix: str = "") -> dict:
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict) and value and "class_name" not in value:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = nameless(value)
    return flat
