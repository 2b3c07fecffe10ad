"""Pictures of what is inside a network, made to be printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from irnet_tf import plotting
from irnet_tf.analysis.measures import LayerFacts
import numpy as np


def draw_layers(facts: Sequence[LayerFacts], path, title: str = "") -> list[Path]:
    """What `analyse` found, a panel a measure, as `path`.png and `path`.svg.

    A measure that no layer has gets no panel, nor do silent channels where there are none.
    """
    own, plain, activations = "as quantized", "plain sign", "activations"
    curves = [
        ("entropy of weights, bit", 1, {own: "weight_entropy", plain: "plain_entropy"}),
        ("entropy of activations, bit", 1, {activations: "activation_entropy"}),
        (
            "share of +1, %",
            100,
            {"weights": "weight_balance", activations: "activation_balance"},
        ),
        ("quantization error, var(w)", 1, {own: "error", plain: "plain_error"}),
        ("cosine, latent to binary weights", 1, {"weights": "cosine"}),
        ("silent input channels, %", 100, {activations: "silent_channels"}),
    ]

    def known(name):
        values = [getattr(layer, name) for layer in facts]
        return any(values) if name == "silent_channels" else any(v is not None for v in values)

    curves = [
        (label, factor, {text: name for text, name in lines.items() if known(name)})
        for label, factor, lines in curves
    ]
    curves = [curve for curve in curves if curve[2]]
    exponents = any(layer.exponents for layer in facts)
    panels = len(curves) + exponents
    rows = (panels + 1) // 2
    figure = plotting.new(11, 1.6 + 2.5 * rows)
    if title:
        figure.suptitle(title)
    axes = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
    for panel, (label, factor, lines) in zip(axes, curves):
        for i, (text, name) in enumerate(lines.items()):
            values = [getattr(layer, name) for layer in facts]
            values = [np.nan if v is None else factor * v for v in values]
            panel.plot(values, label=text, markersize=5, **plotting.style(i))
        panel.set_ylabel(label)
        if len(lines) > 1:
            panel.legend(frameon=False)
    if exponents:
        _stack_exponents(axes[len(curves)], facts)
    for panel in axes[panels:]:
        panel.remove()
    for i, panel in enumerate(axes[:panels]):
        panel.grid(alpha=0.3)
        panel.tick_params(axis="x", labelbottom=i >= panels - 2)
        panel.set_xticks(
            range(len(facts)), [layer.name for layer in facts], rotation=90, fontsize=8
        )
        if i >= panels - 2:
            panel.set_xlabel("layer, from input to output")
    return plotting.save(figure, path)


def draw_details(details: Sequence[dict], path, title: str = "") -> list[Path]:
    """How weights moved over a training, layer by layer, as `path`.png and `path`.svg.

    Args:
        details: rows of details.csv: `epoch`, `layer`, `flip_ratio`, `gradient_norm`.
        path: without its suffix.
        title: of the picture.
    """
    from matplotlib.colors import LogNorm

    layers = list(dict.fromkeys(row["layer"] for row in details))
    epochs = sorted({int(row["epoch"]) for row in details})
    figure = plotting.new(11, 1.6 + 0.2 * len(layers))
    if title:
        figure.suptitle(title)
    for axes, name, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("flip_ratio", "gradient_norm"),
        ("share of weights that changed sign in the epoch, %", "norm of the loss's gradient, nats"),
    ):
        grid = np.full((len(layers), len(epochs)), np.nan)
        for row in details:
            if row[name] not in ("", None):
                value = float(row[name]) * (100 if name == "flip_ratio" else 1)
                grid[layers.index(row["layer"]), epochs.index(int(row["epoch"]))] = value
        grid[grid == 0] = np.nan
        scale = LogNorm() if np.isfinite(grid).any() else None
        mesh = axes.pcolormesh(
            [e - 0.5 for e in epochs] + [epochs[-1] + 0.5],
            np.arange(len(layers) + 1) - 0.5,
            grid,
            norm=scale,
            cmap="cividis",
        )
        axes.set_yticks(range(len(layers)), layers, fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("epoch")
        bar = figure.colorbar(mesh, ax=axes, label=label)
        if scale is not None:
            plotting.plain_log_ticks(bar.ax.yaxis)
    axes.invert_yaxis()  # shared
    figure.axes[0].set_ylabel("layer, from input to output")
    return plotting.save(figure, path)


def _stack_exponents(axes, facts):
    found = sorted({s for layer in facts for s in layer.exponents})
    greys = np.linspace(0.25, 0.85, len(found)) if len(found) > 1 else [0.5]
    hatches = ("", "//", "..", "xx", "--", "++")
    bottom = np.zeros(len(facts))
    for i, (s, grey) in enumerate(zip(found, greys)):
        shares = np.array([100 * layer.exponents.get(s, 0) for layer in facts])
        axes.bar(
            range(len(facts)),
            shares,
            bottom=bottom,
            label=f"s = {s}",
            color=str(grey),
            hatch=hatches[i % len(hatches)],
            edgecolor="white",
            linewidth=0.3,
        )
        bottom += shares
    axes.set_ylabel("output channels of scale 2^s, %")
    axes.legend(frameon=True, loc="lower left", ncols=min(4, len(found)))
