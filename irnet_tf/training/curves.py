"""The curves of a run: accuracy, loss, learning rate and EDE's t over epochs."""

from __future__ import annotations

import io
import math
import os

from irnet_tf import plotting
from irnet_tf._utils import write_atomically
from irnet_tf.training.run_dir import best_row


def draw(rows: list[dict], title: str, path: str | os.PathLike) -> None:
    """Draws the curves to a PNG file.

    Args:
        rows: Rows of metrics.csv.
        title: Title of the figure.
        path: Path of the PNG file.
    """
    picture = io.BytesIO()
    figure_of(rows, title).savefig(picture, dpi=110, format="png")
    write_atomically(path, picture.getvalue())


def figure_of(rows: list[dict], title: str):
    """The curves as a Matplotlib figure."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    figure.suptitle(title)
    accuracy, loss, course = figure.subplots(1, 3)
    marker = "." if len(rows) < 30 else None
    dark, bright = plotting.COLOURS[:2]
    for split, dashes, colour in (("train", "--", bright), ("test", "-", dark)):
        style = {"label": split, "marker": marker, "linestyle": dashes, "color": colour}
        accuracy.plot(epochs, [100 * r[f"{split}_accuracy"] for r in rows], **style)
        loss.plot(epochs, [r[f"{split}_loss"] for r in rows], **style)
    for name, column, dashes, colour in (
        ("learning rate", "learning_rate", "-", dark),
        ("EDE's t", "ede_t", "--", bright),
    ):
        values = [row[column] for row in rows]
        course.plot(epochs, values, dashes, color=colour, marker=marker, label=name)
    best = best_row(rows)
    accuracy.set_title(
        f"best test accuracy {100 * best['test_accuracy']:.2f} % in epoch {best['epoch']:.0f}"
    )
    accuracy.set_ylabel("accuracy, %")
    loss.set_ylabel("cross-entropy, nats (log scale)")
    course.set_ylabel("learning rate and t (log scale)")
    loss.set_yscale("log")
    plotting.plain_log_ticks(loss.yaxis)
    # linear near zero, where a cosine schedule ends
    highest = max(row["learning_rate"] for row in rows) or 1.0
    decade = 10.0 ** math.ceil(math.log10(1e-3 * highest))
    course.set_yscale("symlog", linthresh=decade)
    course.set_ylim(-1e-4 * highest, 2 * max(highest, *(row["ede_t"] for row in rows)))
    for axes in (accuracy, loss, course):
        axes.set_xlabel("epoch")
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
