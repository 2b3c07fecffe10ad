"""Style of figures, readable in grey and at half size, and atomic saving."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
import statistics

from irnet_tf._utils import write_atomically

# From dark to light, so that curves differ in grey too.
COLOURS = ("#1b1b5e", "#c2410c", "#0d8a72", "#a855b5", "#c9a227", "#6b7280")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")


def style(i: int) -> dict:
    """Returns the line style of the i-th curve."""
    kinds = len(COLOURS)
    return {
        "color": COLOURS[i % kinds],
        "linestyle": DASHES[(i + i // kinds) % kinds],
        "marker": MARKERS[(i + 2 * (i // kinds)) % kinds],
    }


def new(width: float, height: float):
    """Returns a figure with its size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def mean_and_range(axes, series, i: int, label: str) -> None:
    """Draw the mean of several series over epochs, and a band from the lowest to the highest.

    The series may differ in length. The line has the i-th style.
    """
    epochs = itertools.zip_longest(*series)
    values = [[value for value in epoch if value is not None] for epoch in epochs]
    epochs, every, line = range(1, len(values) + 1), max(1, len(values) // 10), style(i)
    means = list(map(statistics.mean, values))
    axes.plot(epochs, means, label=label, markersize=5, markevery=(i % every, every), **line)
    if len(series) > 1:
        low, high = list(map(min, values)), list(map(max, values))
        axes.fill_between(epochs, low, high, color=line["color"], alpha=0.15, linewidth=0)


def plain_log_ticks(axis) -> None:
    """Labels a logarithmic axis with plain numbers: 1, 2 and 5 of each decade.

    An axis shorter than a decade has ticks at round numbers. Call it after drawing.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    decades = LogLocator(subs=(1, 2, 5), numticks=15)
    axis.set_major_locator(decades if high >= 10 * low else MaxNLocator(nbins=6))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure, path) -> list[Path]:
    """Writes `path`.png and `path`.svg, reproducibly. A `$` in a text starts no formula."""
    import matplotlib

    for text in figure.findobj(matplotlib.text.Text):
        text.set_parse_math(False)
    written = []
    for suffix, extra in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
        data = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "irnet_tf", "svg.fonttype": "none"}):
            figure.savefig(data, format=suffix, **extra)
        written.append(Path(f"{path}.{suffix}"))
        write_atomically(written[-1], data.getvalue())
    return written
