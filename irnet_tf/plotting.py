"""How pictures look: told apart in grey and at half size, and written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

from irnet_tf._utils import write_atomically

# Dark to light, so that grey tells them apart, and with dashes and markers of their own.
COLOURS = ("#1b1b5e", "#c2410c", "#0d8a72", "#a855b5", "#c9a227", "#6b7280")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")


def style(i: int) -> dict:
    """Line style of the i-th of several curves."""
    kinds = len(COLOURS)
    return {
        "color": COLOURS[i % kinds],
        "linestyle": DASHES[(i + i // kinds) % kinds],
        "marker": MARKERS[(i + 2 * (i // kinds)) % kinds],
    }


def new(width: float, height: float):
    """A figure; sizes in inches, letters of 10 points."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plain_log_ticks(axis) -> None:
    """Ticks of a logarithmic axis as numbers without exponents: 1, 2 and 5 of each decade.

    Of an axis shorter than a decade, where these would be two ticks or none, at round numbers.
    Call it once everything is drawn.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    decades = LogLocator(subs=(1, 2, 5), numticks=15)
    axis.set_major_locator(decades if high >= 10 * low else MaxNLocator(nbins=6))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure, path) -> list[Path]:
    """Write `path`.png and `path`.svg, reproducibly. Text is plain: `$` starts no formula."""
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
