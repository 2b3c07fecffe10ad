"""The report's picture: the 1-bit file beside its float twin."""

from __future__ import annotations

import textwrap

from irnet_tf.export.latency import caveat


def draw(report: dict, path) -> None:
    """Draw size, operations and latency, each of the file beside its full-precision twin.

    Args:
        report: what `export` returned.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    sizes, operations, latency = (report[k] for k in ("sizes", "operations", "latency"))
    all_operations = sum(operations.values())
    panels = (
        ("size, MB", {"file": sizes["file"] / 1e6, "float twin": sizes["float"] / 1e6}),
        (
            "operations, millions",
            {
                "1-bit": operations["one_bit"] / 1e6,
                "float": operations["float"] / 1e6,
                "float twin": all_operations / 1e6,
            },
        ),
        ("ms an image, here", {_short(name): ms for name, ms in latency["ms"].items()}),
    )
    notes = [f"Latency: {latency['machine']}, median."]
    if caveat(report):
        notes.append(caveat(report))
    if "accuracy" in report["comparison"]:
        seen = report["comparison"]
        notes.insert(
            0,
            f"Accuracy on {seen['images']} images ({seen['images_are']}): file "
            f"{seen['accuracy']['file']:.2%}, network {seen['accuracy']['network']:.2%}.",
        )
    figure = Figure((10, 4), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(1, 3), panels):
        colours = ["0.75" if "twin" in name else "tab:blue" for name in values]
        bars = axes.bar(list(values), list(values.values()), color=colours, edgecolor="0.2")
        axes.bar_label(bars, fmt="{:,.3g}")
        axes.margins(y=0.15)
        axes.set_ylabel(title)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report['network']}: {report['format']}")
    figure.supxlabel(
        "\n".join(line for note in notes for line in textwrap.wrap(note, 130)), fontsize=8
    )
    figure.savefig(path, dpi=120)


def _short(name):
    return (
        name.replace("1-bit file", "file").replace("TensorFlow Lite", "TFLite").replace(", ", ",\n")
    )
