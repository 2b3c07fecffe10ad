"""Figures of the measures of a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from irnet_tf import plotting
import numpy as np

_LABELS = {
    "weight_entropy": "as quantized",
    "plain_entropy": "plain sign",
    "error": "as quantized",
    "plain_error": "plain sign",
    "weight_balance": "weights",
    "activation_balance": "activations",
}


def draw_layers(facts: Sequence[dict], path, title: str = "") -> list[Path]:
    """Draw a panel per known measure, to `path`.png and `path`.svg."""
    curves = (
        ("entropy of weights, bit", 1, ("weight_entropy", "plain_entropy")),
        ("entropy of activations, bit", 1, ("activation_entropy",)),
        ("share of +1, %", 100, ("weight_balance", "activation_balance")),
        ("quantization error, var(w)", 1, ("error", "plain_error")),
        ("cosine, latent to binary weights", 1, ("cosine",)),
        ("silent input channels, %", 100, ("silent_channels",)),
    )
    panels = []
    for label, factor, names in curves:
        names = [name for name in names if any(name in layer for layer in facts)]
        if names:
            panels.append((label, factor, names))
    figure = plotting.new(9, 2 + 2.2 * len(panels))
    figure.suptitle(title)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, factor, names) in zip(grid, panels):
        for i, name in enumerate(names):
            values = [factor * layer.get(name, np.nan) for layer in facts]
            axes.plot(values, label=_LABELS.get(name), markersize=5, **plotting.style(i))
        axes.set_ylabel(label, fontsize=9)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(frameon=False)
    layers = [layer["name"] for layer in facts]
    grid[-1].set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
    grid[-1].set_xlabel("layer, from input to output")
    return plotting.save(figure, path)


def draw_details(details: Sequence[dict], path, title: str = "") -> list[Path]:
    """Draw flip ratios and gradient norms by epoch and layer, to `path`.png and `path`.svg.

    Args:
        details: Rows of details.csv: `epoch`, `layer`, `flip_ratio`, `gradient_norm`.
        path: Path without suffix.
        title: Title of the figure.
    """
    from matplotlib.colors import LogNorm

    layers = list(dict.fromkeys(row["layer"] for row in details))
    epochs = sorted({int(row["epoch"]) for row in details})
    figure = plotting.new(11, 1.6 + 0.2 * len(layers))
    figure.suptitle(title)
    for axes, (name, factor, label) in zip(
        figure.subplots(1, 2, sharey=True),
        (
            ("flip_ratio", 100, "share of weights that changed sign in the epoch, %"),
            ("gradient_norm", 1, "norm of the loss's gradient, nats"),
        ),
    ):
        grid = np.full((len(layers), len(epochs)), np.nan)
        for row in details:
            value = float(row[name] or 0) or np.nan  # a logarithmic scale has no zero
            grid[layers.index(row["layer"]), epochs.index(int(row["epoch"]))] = factor * value
        scale = LogNorm() if np.isfinite(grid).any() else None
        extent = (epochs[0] - 0.5, epochs[-1] + 0.5, len(layers) - 0.5, -0.5)
        mesh = axes.imshow(
            grid, "cividis", norm=scale, aspect="auto", interpolation="nearest", extent=extent
        )
        axes.set_yticks(range(len(layers)), layers, fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("epoch")
        bar = figure.colorbar(mesh, ax=axes, label=label)
        if scale is not None:
            plotting.plain_log_ticks(bar.ax.yaxis)
    figure.axes[0].set_ylabel("layer, from input to output")
    return plotting.save(figure, path)
