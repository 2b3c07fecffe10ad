"""Runs side by side: a table, and one picture of their curves.

    python -m irnet_tf.compare RUN... --out=FOLDER

A RUN is a run folder, a folder of run folders, or the metrics.csv of a run alone. Runs that
differ in nothing but their seed are a group: the table has their mean and standard deviation,
the picture a band from the lowest to the highest.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import json
from pathlib import Path
import statistics
import sys

from irnet_tf import plotting
from irnet_tf._runs import Run, find_runs, read_run
from irnet_tf._utils import write_atomically


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed.

    Attributes:
        network, data: what was trained, on what.
        changed: how it differs from the other groups, in words; "" if in nothing.
        runs: at least one.
    """

    network: str
    data: str
    changed: str
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        return ", ".join(part for part in (self.network, self.changed) if part) or self.runs[0].name

    def values(self, which: str, name: str) -> list[float]:
        """Of every run: `which` is `"last"` or `"best"`, `name` a column of metrics.csv."""
        return [getattr(run, which)[name] for run in self.runs]

    def row(self) -> dict[str, str]:
        """The group's line of the table. Accuracies are in %, of test images."""
        runs = self.runs
        epochs = _span([len(run.rows) for run in runs], "{:.0f}")
        if any(run.epochs and len(run.rows) < run.epochs for run in runs):
            epochs += f" of {runs[0].epochs}"
        rates = [row["images_per_second"] for run in runs for row in run.rows]
        seconds = [sum(row["seconds"] for row in run.rows) for run in runs]
        shipped = [100 * run.shipped for run in runs if run.shipped is not None]
        return {
            "network": self.network or "-",
            "data": self.data or "-",
            "changed": self.changed or "-",
            "seeds": ", ".join("?" if r.seed is None else str(r.seed) for r in runs),
            "epochs": epochs,
            "last %": _mean([100 * v for v in self.values("last", "test_accuracy")]),
            "best %": _mean([100 * v for v in self.values("best", "test_accuracy")]),
            "shipped %": _mean(shipped) if shipped else "",
            "best epoch": _span(self.values("best", "epoch"), "{:.0f}"),
            "train %": _mean([100 * v for v in self.values("last", "train_accuracy")]),
            "last loss": _mean(self.values("last", "test_loss"), 3),
            "images/s": f"{statistics.median(rates):.0f}",
            "minutes": f"{statistics.mean(seconds) / 60:.1f}",
        }


def group_runs(runs: Mapping[Path, Run], labels: Mapping[Path, str] | None = None) -> list[Group]:
    """Put runs together that differ in nothing but their seed, in the order of the first.

    Args:
        runs: by path.
        labels: says of a path how its run differs; None: worked out from the settings.
    """
    together: dict[str, list[Path]] = {}
    for path, run in runs.items():
        key = [run.network, run.data, dict(run.settings), (labels or {}).get(path)]
        if not run.network:
            key.append(str(path))
        together.setdefault(json.dumps(key, sort_keys=True), []).append(path)
    groups = list(together.values())
    changed = _changes([runs[paths[0]] for paths in groups])
    if labels is not None:
        changed = [labels.get(paths[0], "") for paths in groups]
    return [
        Group(runs[p[0]].network, runs[p[0]].data, text, tuple(runs[path] for path in p))
        for p, text in zip(groups, changed)
    ]


def _changes(runs: list[Run]) -> list[str]:
    """How each differs from the others, naming only settings in which any two differ.

    Runs of different networks differ anyway: settings are compared within a network. What an
    older run does not know of is no difference.
    """
    texts = []
    for run in runs:
        if not run.network:
            texts.append(run.name)
            continue
        peers = [other for other in runs if (other.network, other.data) == (run.network, run.data)]
        differing = [
            name
            for name in sorted({name for peer in peers for name in peer.settings})
            if len(_values(name, peers)) > 1
        ]
        texts.append(
            ", ".join(f"{n.split('.')[-1]}={_short(run.settings.get(n))}" for n in differing)
        )
    return texts


def _values(name: str, peers: list[Run]) -> set[str]:
    """A builder's argument that is not given has its default; else an older run is silent."""
    given = name.startswith("arguments.")
    return {json.dumps(p.settings.get(name)) for p in peers if given or name in p.settings}


def as_csv(groups: Sequence[Group]) -> str:
    """The table as CSV; numbers as in Markdown, deviations in columns of their own."""
    text = io.StringIO()
    rows = [_split_deviations(row) for row in _rows(groups)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(groups: Sequence[Group]) -> str:
    """The table as Markdown that also reads well in a terminal."""
    rows = _rows(groups)
    names = list(rows[0])
    lines = [names, *([row[name].replace("|", "\\|") for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    lines.insert(1, ["-" * width for width in widths])
    padded = (" | ".join(c.ljust(w) for c, w in zip(line, widths)) for line in lines)
    return "".join(f"| {line} |\n" for line in padded)


def draw(groups: Sequence[Group], path, title: str = "") -> list[Path]:
    """Test accuracy and training loss over epochs, as `path`.png and `path`.svg.

    A line is the mean over seeds, its band goes from the lowest to the highest.
    """
    figure = plotting.new(11, 4.6 + 0.22 * len(groups))
    if title:
        figure.suptitle(title)
    accuracy, loss = figure.subplots(1, 2)
    for i, group in enumerate(groups):
        seeds = len(group.runs)
        label = f"{group.title} ({seeds} seed{'s' if seeds > 1 else ''})"
        for axes, column, factor in ((accuracy, "test_accuracy", 100), (loss, "train_loss", 1)):
            _curve(axes, group, column, factor, i, label)
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


def report(paths, out=None, labels=None, title: str = "") -> list[Group]:
    """Compare runs: print the table; write it and the picture.

    Args:
        paths: run folders, or metrics.csv files.
        out: folder that gets `table.csv`, `table.md`, `runs.csv` (a row a run), `curves.png` and
            `curves.svg`; None: none.
        labels: from a path to how its run differs; None: worked out.
        title: of the picture.

    Returns:
        The groups, in the order of the table.

    Raises:
        ValueError: if there is nothing to compare, or a run cannot be read.
    """
    runs = {Path(path): read_run(path) for path in paths}
    if not runs:
        raise ValueError("there is no run to compare")
    groups = group_runs(runs, labels)
    print(as_markdown(groups), end="")
    if out is not None:
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        each = [dataclasses.replace(group, runs=(run,)) for group in groups for run in group.runs]
        write_atomically(out / "table.csv", as_csv(groups))
        write_atomically(out / "table.md", as_markdown(groups))
        write_atomically(out / "runs.csv", as_csv(each))
        draw(groups, out / "curves", title)
    return groups


def _rows(groups):
    """The table's, without a column that is empty."""
    rows = [group.row() for group in groups]
    return [{k: v for k, v in row.items() if any(r[k] for r in rows)} for row in rows]


def _curve(axes, group, column, factor, i, label):
    length = max(len(run.rows) for run in group.runs)
    epochs = list(range(1, length + 1))
    values = [
        [factor * r.rows[e][column] for r in group.runs if e < len(r.rows)] for e in range(length)
    ]
    style = plotting.style(i)
    axes.plot(
        epochs,
        [statistics.mean(v) for v in values],
        label=label,
        linewidth=1.6,
        markersize=5,
        markevery=(i % max(1, length // 10), max(1, length // 10)),
        **style,
    )
    if len(group.runs) > 1:
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _mean(values: list[float], digits: int = 2) -> str:
    """Mean, and the standard deviation of a sample where there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def _span(values: list[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _split_deviations(row: dict[str, str]) -> dict[str, str]:
    split = {}
    for name, text in row.items():
        mean, separator, deviation = text.partition(" ± ")
        split[name] = mean
        if separator:
            split[f"{name} deviation"] = deviation
    return split


def _short(value) -> str:
    """A quantizer's or another object's config by its name."""
    if value is None:
        return "default"
    return str(value.get("class_name", value)) if isinstance(value, dict) else str(value)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m irnet_tf.compare", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or folder of them")
    parser.add_argument("--out", help="folder for tables and curves")
    parser.add_argument("--title", default="", help="of the picture")
    arguments = parser.parse_args(argv)
    try:
        report(find_runs(arguments.runs), arguments.out, title=arguments.title)
    except (ValueError, OSError) as error:
        sys.exit(f"compare: {error}")


if __name__ == "__main__":
    main()
