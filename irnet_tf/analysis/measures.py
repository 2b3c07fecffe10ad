"""Measures of binary weights and activations, in NumPy, independent of the quantizers' code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import math

from irnet_tf._utils import csv_text, markdown_table
from irnet_tf.quantizers import KernelQuantizer, LibraPB, output_axes
import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class LayerFacts:
    """Measures of one layer. Shares are fractions; unknown values are None.

    Attributes:
        name: Layer name.
        weights: Number of binary weights; 0 if they are not binary.
        quantizer: Class of the kernel quantizer.
        weight_entropy: Bits per weight, mean over output channels.
        weight_balance: Share of weights that are +1.
        exponents: Share of output channels by s, where weights are +-2**s; empty if magnitudes
            are not powers of two.
        plain_entropy: Bits per weight of the plain sign of the latent weights.
        plain_error: Quantization error of the plain sign: mean of (w / std - sign(w))**2 over
            latent weights w, with the channel's standard deviation std.
        error: Quantization error of the layer's quantizer; for Libra-PB between its balanced and
            standardised weights and their quantized values, as in the paper.
        cosine: Cosine between latent and binary weights, mean over output channels.
        activation_entropy: Bits per activation, mean over input channels, with p over images and
            positions.
        activation_balance: Share of activations that are +1.
        silent_channels: Share of input channels that are always +1 or always -1.
    """

    name: str
    weights: int = 0
    quantizer: str | None = None
    weight_entropy: float | None = None
    weight_balance: float | None = None
    exponents: dict[int, float] = dataclasses.field(default_factory=dict)
    plain_entropy: float | None = None
    plain_error: float | None = None
    error: float | None = None
    cosine: float | None = None
    activation_entropy: float | None = None
    activation_balance: float | None = None
    silent_channels: float | None = None


def entropy(share) -> np.ndarray:
    """Entropy in bits of a bit that is +1 with probability `share`; any shape."""
    share = np.asarray(share, np.float64)
    one, other = np.clip(share, 1e-300, 1), np.clip(1 - share, 1e-300, 1)
    return -(share * np.log2(one) + (1 - share) * np.log2(other))


def analyse(
    model: tf.keras.Model, images: Iterable | None = None, *, latent: bool = True
) -> list[LayerFacts]:
    """Measures of every layer with binary weights or activations, in the model's order.

    Args:
        model: Keras model; nested models are not analysed.
        images: Batches `[b, height, width, channels]`, normalised; None: no measures of
            activations.
        latent: Whether the weights are the latent weights of a run. Weights loaded from a 1-bit
            file only determine the bits; other measures are None then.

    Raises:
        ValueError: If no layer is binary or `images` is empty.
    """
    layers = [layer for layer in model.layers if binary_kernel(layer) or _input_quantizer(layer)]
    if not layers:
        raise ValueError(
            f"the model {model.name!r} has no binary layer: all its weights and activations are "
            "full precision"
        )
    shares = {} if images is None else _activation_shares(model, layers, images)
    facts = []
    for layer in layers:
        binary = binary_kernel(layer)
        known = _weight_facts(*binary, latent) if binary else {}
        if layer.name in shares:
            share = shares[layer.name]
            known["activation_entropy"] = float(entropy(share).mean())
            known["activation_balance"] = float(share.mean())
            known["silent_channels"] = float(np.mean((share == 0) | (share == 1)))
        facts.append(LayerFacts(layer.name, **known))
    return facts


def binary_kernel(layer):
    """A layer's latent weights, their quantizer, and the axes of the output channels.

    None if the layer has no binary weights.
    """
    for kind, axes in (("kernel", 1), ("depthwise", 2)):
        quantizer = getattr(layer, f"{kind}_quantizer", None)
        if getattr(quantizer, "precision", None) == 1:
            kernel = getattr(layer, "kernel" if kind == "kernel" else "depthwise_kernel")
            rank = len(kernel.shape)
            if isinstance(quantizer, KernelQuantizer):
                return kernel, quantizer, quantizer.output_axes(rank)
            return kernel, quantizer, output_axes(rank, axes)
    return None


def operations(model: tf.keras.Model) -> dict[str, int]:
    """Multiply-accumulates per image: `{"one_bit": ..., "float": ...}`.

    One-bit operations have a binary weight and a binary activation.

    Args:
        model: Keras model with a fixed input size.
    """
    counts = {"one_bit": 0, "float": 0}
    for layer in model.layers:
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            kernel = getattr(layer, name, None)
            if not hasattr(kernel, "shape"):
                continue
            binary = name != "pointwise_kernel" and binary_kernel(layer) and _input_quantizer(layer)
            positions = np.prod(layer.output_shape[1:-1], dtype=int)
            counts["one_bit" if binary else "float"] += int(positions * np.prod(kernel.shape))
    return counts


def as_csv(facts: Sequence[LayerFacts]) -> str:
    """A row per layer; exponents as `s:share` pairs."""
    rows = [dataclasses.asdict(layer) for layer in facts]
    for row in rows:
        row["exponents"] = " ".join(f"{s}:{share:.6g}" for s, share in row["exponents"].items())
    return csv_text(rows[0], [row.values() for row in rows])


# Head, attribute, decimals, factor and explanation.
_COLUMNS = (
    ("layer", "name", None, 1, "layer, from input to output"),
    ("weights", "weights", None, 1, "number of binary weights"),
    ("bit/weight", "weight_entropy", 4, 1, "entropy of the binary weights, at most 1"),
    ("plain", "plain_entropy", 4, 1, "bit/weight of the plain sign of the latent weights"),
    ("+1 %", "weight_balance", 1, 100, "share of weights that are +1"),
    ("scales", "exponents", None, 1, "s:share of the output channels with weights +-2**s"),
    ("error", "error", 3, 1, "quantization error in units of the latent weights' variance"),
    ("plain error", "plain_error", 3, 1, "quantization error of the plain sign"),
    ("cosine", "cosine", 3, 1, "cosine between latent and binary weights"),
    ("bit/act.", "activation_entropy", 4, 1, "entropy of the binary activations, at most 1"),
    ("act. +1 %", "activation_balance", 1, 100, "share of activations that are +1"),
    ("silent %", "silent_channels", 1, 100, "share of input channels that never change sign"),
)


def as_markdown(facts: Sequence[LayerFacts]) -> str:
    """The table, without empty columns, and an explanation of its columns."""
    columns, notes = {}, ""
    for head, attribute, decimals, factor, explanation in _COLUMNS:
        values = [getattr(layer, attribute) for layer in facts]
        if any(value not in (None, {}) for value in values):
            columns[head] = [_text(value, decimals, factor) for value in values]
            notes += f"- {head}: {explanation}\n"
    return f"{markdown_table(list(columns), list(zip(*columns.values())))}\n{notes}"


def _text(value, decimals, factor) -> str:
    if isinstance(value, dict):
        value = " ".join(f"{s}:{100 * share:.0f}%" for s, share in value.items())
    if value is None or decimals is None:
        return str(value or "-")
    return f"{factor * value:.{decimals}f}"


def _weight_facts(kernel, quantizer, axes: list[int], latent: bool) -> dict:
    last = list(range(-len(axes), 0))
    n = int(np.prod(kernel.shape)) // math.prod(kernel.shape[axis] for axis in axes)
    both = kernel.numpy(), quantizer(tf.convert_to_tensor(kernel)).numpy()
    w, q = (np.moveaxis(x.astype(np.float64), axes, last).reshape(n, -1) for x in both)
    plus = (q > 0).mean(0)
    magnitudes = np.abs(q[0])
    powers = np.round(np.log2(np.maximum(magnitudes, 1e-30))).astype(int)
    exact = np.array_equal(np.abs(q), np.broadcast_to(2.0**powers, q.shape))
    values, counts = np.unique(powers, return_counts=True)
    facts = {
        "weights": w.size,
        "quantizer": type(quantizer).__name__,
        "weight_entropy": float(entropy(plus).mean()),
        "weight_balance": float(plus.mean()),
        "exponents": dict(zip(values.tolist(), (counts / len(powers)).tolist())) if exact else {},
    }
    if not latent:
        return facts
    std = w.std(0, ddof=min(1, n - 1))
    std = np.where(std > 0, std, 1)
    plain = np.where(w >= 0, 1.0, -1.0)
    standardised = (w - w.mean(0)) / std
    if isinstance(quantizer, LibraPB):
        error = np.mean((standardised - q) ** 2)
    elif np.all(magnitudes == 1):  # a sign: the scale is the batch norm's
        error = np.mean((w / std - q) ** 2)
    else:
        error = np.mean(((w - q) / std) ** 2)
    lengths = np.linalg.norm(w, axis=0) * np.linalg.norm(q, axis=0)
    return {
        **facts,
        "plain_entropy": float(entropy((plain > 0).mean(0)).mean()),
        "plain_error": float(np.mean((w / std - plain) ** 2)),
        "error": float(error),
        "cosine": float(np.mean((w * q).sum(0) / np.where(lengths > 0, lengths, 1))),
    }


def _activation_shares(model, layers, images) -> dict[str, np.ndarray]:
    """Share of +1 per input channel, by the names of layers with binary inputs."""
    layers = [layer for layer in layers if _input_quantizer(layer)]
    if not layers:
        return {}
    inside = tf.keras.Model(model.inputs, [layer.input for layer in layers])
    plus, count = {layer.name: 0.0 for layer in layers}, 0
    for batch in images:
        count += len(batch)
        for layer, x in zip(layers, tf.nest.flatten(inside.predict_on_batch(batch))):
            bits = layer.input_quantizer(x).numpy() > 0
            plus[layer.name] += len(batch) * bits.mean(tuple(range(bits.ndim - 1)))
    if not count:
        raise ValueError("there are no images to measure activations on")
    return {name: share / count for name, share in plus.items()}


def _input_quantizer(layer):
    quantizer = getattr(layer, "input_quantizer", None)
    return quantizer if getattr(quantizer, "precision", None) == 1 else None
