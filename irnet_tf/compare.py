"""Runs side by side: a table and a figure of their curves.

    python -m irnet_tf.compare RUN... --out=FOLDER

A RUN is a run folder, a folder of run folders, or a metrics.csv. Runs that differ only in their
seed form a group: the table shows mean and standard deviation, the figure a band from the lowest
to the highest value.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import json
from pathlib import Path
import statistics
import sys
import textwrap

from irnet_tf import plotting
from irnet_tf._utils import csv_text, markdown_table, write_atomically
from irnet_tf.training.run_dir import best_row, flatten, read_metrics

_WIDTH = 120
_CELL = 40
_NOT_SETTINGS = ("network", "seed", "mixed_precision", "data.name", "data.classes", "recipe.data")
_HASHES = {"initialized_from"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A saved run: the folder's name, the rows of metrics.csv, and the identity in config.json.

    `settings` are the rest of the identity by dotted names. `shipped` is the test accuracy of the
    weights in the zoo.
    """

    name: str
    rows: Sequence[Mapping[str, float]]
    network: str
    data: str
    seed: int | None
    settings: Mapping
    shipped: float | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, and their difference from other groups."""

    changed: str
    runs: tuple[Run, ...]

    def row(self) -> dict[str, str]:
        """The group's row of the table. Accuracies are in % of the test images."""
        runs = self.runs
        last = [run.rows[-1] for run in runs]
        best = [best_row(run.rows) for run in runs]
        epochs = _span([len(run.rows) for run in runs])
        planned = runs[0].settings.get("recipe.epochs")
        if planned and any(len(run.rows) < planned for run in runs):
            epochs += f" of {planned}"
        speeds = [row["images_per_second"] for run in runs for row in run.rows]
        seconds = [sum(row["seconds"] for row in run.rows) for run in runs]
        return {  # the most important first: a table that is too wide loses its last columns
            "run": ", ".join(run.name for run in runs),
            "changed": self.changed,
            "seeds": ", ".join("?" if run.seed is None else str(run.seed) for run in runs),
            "epochs": epochs,
            "last %": _mean([100 * row["test_accuracy"] for row in last]),
            "best %": _mean([100 * row["test_accuracy"] for row in best]),
            "shipped %": _mean([100 * run.shipped for run in runs if run.shipped is not None]),
            "best epoch": _span([row["epoch"] for row in best]),
            "network": runs[0].network,
            "data": runs[0].data,
            "train %": _mean([100 * row["train_accuracy"] for row in last]),
            "last loss": _mean([row["test_loss"] for row in last], 3),
            "images/s": f"{statistics.median(speeds):.0f}",
            "minutes": f"{statistics.mean(seconds) / 60:.1f}",
        }


def read_run(path) -> Run:
    """Read a run from its folder or its metrics.csv.

    Raises:
        ValueError: If no epoch has ended yet or a file is damaged.
    """
    path = Path(path)
    rows = read_metrics(path)
    if not rows:
        raise ValueError(f"{path}: no epoch has ended yet")
    folder = path.parent if path.name == "metrics.csv" else path
    files = (folder / "config.json", folder / "result.json")
    try:
        config, result = (json.loads(f.read_text()) if f.exists() else {} for f in files)
        identity = config.get("identity", {})  # none in a run of a user's own `fit`
        return Run(
            name=folder.resolve().name,
            rows=rows,
            network=identity.get("network", ""),
            data=identity.get("data", {}).get("name", ""),
            seed=identity.get("seed"),
            settings={k: v for k, v in flatten(identity).items() if k not in _NOT_SETTINGS},
            shipped=result.get("shipped", {}).get("accuracy"),
        )
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: damaged config.json or result.json: {error!r}") from error


def find_runs(paths) -> list[Path]:
    """Run folders among and below `paths`; files are kept. ValueError if a path has no run."""
    found = []
    for path in map(Path, paths):
        runs = [path] if path.is_file() else sorted(f.parent for f in path.rglob("metrics.csv"))
        if not runs:
            raise ValueError(f"{path} contains no run: it has no metrics.csv")
        found += runs
    return list(dict.fromkeys(found))


def group_runs(runs: Sequence[Run], changes: Sequence[str] | None = None) -> list[Group]:
    """Groups of runs that differ only in their seed, in the order of their first runs.

    A second run with the same seed is not another sample: it starts a group of its own.

    Args:
        runs: Runs.
        changes: Description of each run's changes; None: derived from the settings.
    """
    groups: list[tuple[tuple, list[Run]]] = []
    for run, change in zip(runs, changes or [None] * len(runs)):
        key = (run.network, run.data, run.settings, change)
        for other, members in groups:
            if other == key and run.seed not in [member.seed for member in members]:
                members.append(run)
                break
        else:
            groups.append((key, [run]))
    first = [members[0] for _, members in groups]
    return [
        Group(_changes(members[0], first) if changes is None else key[-1], tuple(members))
        for key, members in groups
    ]


def _changes(run, others) -> str:
    """The settings in which runs of the same network and data differ."""
    peers = [peer for peer in others if (peer.network, peer.data) == (run.network, run.data)]
    texts = []
    for name in sorted({name for peer in peers for name in peer.settings} - _HASHES):
        value = run.settings.get(name)
        if any(peer.settings.get(name) != value for peer in peers):
            value = value.get("class_name") if isinstance(value, dict) else value
            texts.append(f"{name.split('.')[-1]}={'default' if value is None else value}")
    return ", ".join(texts)


def as_markdown(groups: Sequence[Group]) -> str:
    """The table as Markdown of at most 120 columns; settings that all share are above it."""
    rows = [group.row() for group in groups]
    shared = ("network", "data", "seeds", "epochs") if len(groups) > 1 else ("network", "data")
    shared = [name for name in shared if len({row[name] for row in rows}) == 1]
    caption = "; ".join(f"{name}: {rows[0][name]}" for name in shared if rows[0][name])
    names = [name for name in rows[0] if name not in shared and any(row[name] for row in rows)]
    cells = [[textwrap.shorten(row[n], _CELL, placeholder=" ...") for n in names] for row in rows]
    table = markdown_table(names, cells)
    while table.index("\n") > _WIDTH:
        names.pop()
        table = markdown_table(names, [line[: len(names)] for line in cells])
    return f"{caption}\n\n{table}" if caption else table


def draw(groups: Sequence[Group], path, title: str = "") -> list[Path]:
    """Draw test accuracy and training loss over epochs, to `path`.png and `path`.svg.

    A line is the mean over seeds, its band the range.
    """
    figure = plotting.new(11, 4.6 + 0.22 * len(groups))
    figure.suptitle(title)
    accuracy, loss = figure.subplots(1, 2)
    rows = [group.row() for group in groups]
    labels = [", ".join(filter(None, (row["network"], row["changed"]))) for row in rows]
    for i, (group, row, label) in enumerate(zip(groups, rows, labels)):
        seeds = len(group.runs)
        if not label or labels.count(label) > 1:
            label = f"{label} {row['run']}".strip()
        label = textwrap.fill(f"{label} ({seeds} seed{'s' if seeds > 1 else ''})", 100)
        for axes, column, factor in ((accuracy, "test_accuracy", 100), (loss, "train_loss", 1)):
            series = [[factor * row[column] for row in run.rows] for run in group.runs]
            plotting.mean_and_range(axes, series, i, label)
    accuracy.set_ylabel("test accuracy, %")
    loss.set_ylabel("training loss, nats (log scale)")
    loss.set_yscale("log")
    plotting.plain_log_ticks(loss.yaxis)
    for axes in (accuracy, loss):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    handles, names = accuracy.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", frameon=False, handlelength=4)
    return plotting.save(figure, path)


def report(paths, out=None, changes: Sequence[str] | None = None, title: str = "") -> list[Group]:
    """Compare runs: print the table; write it and the figure.

    Args:
        paths: Run folders or metrics.csv files.
        out: Folder for `table.csv`, `table.md`, `curves.png` and `curves.svg`; None: no files.
        changes: As for `group_runs`.
        title: Title of the figure.

    Raises:
        ValueError: If a run cannot be read.
    """
    groups = group_runs([read_run(path) for path in paths], changes)
    table = as_markdown(groups)
    print(table, end="")
    if out is not None:
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        rows = [group.row() for group in groups]
        write_atomically(out / "table.csv", csv_text(rows[0], [row.values() for row in rows]))
        write_atomically(out / "table.md", table)
        draw(groups, out / "curves", title)
    return groups


def _mean(values, digits: int = 2) -> str:
    """Mean, and the sample standard deviation of several values."""
    if not values:
        return ""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def _span(values) -> str:
    low, high = int(min(values)), int(max(values))
    return str(low) if low == high else f"{low} to {high}"


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m irnet_tf.compare", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or folder of them")
    parser.add_argument("--out", help="folder for tables and curves")
    parser.add_argument("--title", default="", help="title of the figure")
    arguments = parser.parse_args(argv)
    try:
        report(find_runs(arguments.runs), arguments.out, title=arguments.title)
    except (ValueError, OSError) as error:
        sys.exit(f"compare: {error}")


if __name__ == "__main__":
    main()
