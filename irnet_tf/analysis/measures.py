"""Measures of binary weights and activations; NumPy only, nothing of the quantizers' own code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import csv
import dataclasses
import io
import math

from irnet_tf.quantizers import KernelQuantizer, LibraPB, output_axes
import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class LayerFacts:
    """What is inside one layer. A share is a fraction; what is not known is None.

    Attributes:
        name: the layer's.
        weights: how many; 0 if they are not binary.
        quantizer: class of what makes them binary.
        weight_entropy: bits a weight, mean over output channels.
        weight_balance: share of +1.
        exponents: from s to the share of output channels whose weights are +-2**s; empty where
            magnitudes are no powers of two.
        plain_entropy: as `weight_entropy`, of the plain sign of the latent weights.
        plain_error: mean over weights of (w / std - sign(w))**2, std being the channel's: the
            quantization error of a plain sign of the latent weights w.
        error: that of the layer's own quantizer. Libra-PB's is taken from balanced and
            standardised weights, as the paper does.
        cosine: between latent and binary weights, mean over output channels.
        activation_entropy: bits an activation, mean over input channels; p is taken over images
            and positions.
        activation_balance: share of +1.
        silent_channels: share of input channels that are always +1 or always -1.
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
    """Bits of information of a bit that is +1 in this share of cases, 0 to 1. Any shape."""
    share = np.asarray(share, np.float64)
    one, other = np.clip(share, 1e-300, 1), np.clip(1 - share, 1e-300, 1)
    return -(share * np.log2(one) + (1 - share) * np.log2(other))


def analyse(
    model: tf.keras.Model, images: Iterable | None = None, *, latent: bool = True
) -> list[LayerFacts]:
    """Look into every layer with binary weights or activations, in the model's order.

    Args:
        model: a Keras model; layers of models inside it are not looked into.
        images: batches `[b, height, width, channels]` as the model takes them; None: binary
            activations are not measured.
        latent: whether the weights are those of a training. Those that a 1-bit weights file
            gave are made anew: what depends on more than their bits is None then.

    Raises:
        ValueError: if no layer is binary, or `images` is empty.
    """
    layers = [layer for layer in model.layers if binary_kernel(layer) or _input_quantizer(layer)]
    if not layers:
        raise ValueError(
            f"the model {model.name!r} has no binary layer to look into: all its weights and "
            "activations are full precision"
        )
    shares = {} if images is None else _activation_shares(model, layers, images)
    facts = []
    for layer in layers:
        known = _weight_facts(*binary_kernel(layer), latent) if binary_kernel(layer) else {}
        if layer.name in shares:
            share = shares[layer.name]
            known["activation_entropy"] = float(entropy(share).mean())
            known["activation_balance"] = float(share.mean())
            known["silent_channels"] = float(np.mean((share == 0) | (share == 1)))
        facts.append(LayerFacts(layer.name, **known))
    return facts


def binary_kernel(layer):
    """A layer's 1-bit weights.

    Returns:
        The variable of latent weights, its quantizer, and which of its axes index output
        channels; None if the layer has no binary weights.
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
    """What an image costs: a multiplication and the addition that follows it count as one.

    Args:
        model: a Keras model of a known input size; of convolutions and dense layers.

    Returns:
        `{"one_bit": ..., "float": ...}`. One-bit are those of a binary weight with a binary
        activation.
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
    """A row a layer; exponents as `s:share` pairs."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [f.name for f in dataclasses.fields(LayerFacts)], lineterminator="\n"
    )
    writer.writeheader()
    for layer in facts:
        pairs = " ".join(f"{s}:{share:.6g}" for s, share in layer.exponents.items())
        writer.writerow({**dataclasses.asdict(layer), "exponents": pairs})
    return text.getvalue()


def as_markdown(facts: Sequence[LayerFacts]) -> str:
    """The table for reading; of columns without a value none is shown."""
    columns = {
        "layer": lambda f: f.name,
        "weights": lambda f: f.weights or None,
        "entropy, bit": lambda f: _number(f.weight_entropy),
        "its plain sign": lambda f: _number(f.plain_entropy),
        "+1, %": lambda f: _number(f.weight_balance, 1, 100),
        "exponents": lambda f: " ".join(f"{s}:{100 * x:.0f}%" for s, x in f.exponents.items()),
        "error": lambda f: _number(f.error, 3),
        "plain sign's": lambda f: _number(f.plain_error, 3),
        "cosine": lambda f: _number(f.cosine, 3),
        "activations, bit": lambda f: _number(f.activation_entropy),
        "+1, % ": lambda f: _number(f.activation_balance, 1, 100),
        "silent, %": lambda f: _number(f.silent_channels, 1, 100),
    }
    cells = {name: [get(f) for f in facts] for name, get in columns.items()}
    cells = {name: values for name, values in cells.items() if any(v is not None for v in values)}
    lines = [list(cells), *([str(v or "-") for v in row] for row in zip(*cells.values()))]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    padded = (" | ".join(c.ljust(w) for c, w in zip(line, widths)) for line in lines)
    return "".join(f"| {line} |\n" for line in padded)


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
    """Of each layer with binary inputs the share of +1, channel by channel."""
    layers = [layer for layer in layers if _input_quantizer(layer)]
    if not layers:
        return {}
    inside = tf.keras.Model(model.inputs, [layer.input for layer in layers])

    @tf.function(reduce_retracing=True)
    def count(batch):
        inputs = inside(batch, training=False)
        sums, numbers = [], []
        for layer, x in zip(layers, inputs if len(layers) > 1 else [inputs]):
            bits = tf.cast(_input_quantizer(layer)(x) > 0, tf.float32)
            axes = list(range(len(x.shape) - 1))
            sums.append(tf.reduce_sum(bits, axes))
            numbers.append(tf.size(x) // x.shape[-1])
        return sums, numbers

    plus, total = [0.0] * len(layers), [0] * len(layers)
    for batch in images:
        sums, numbers = count(batch)
        for i, (some, number) in enumerate(zip(sums, numbers)):
            plus[i] = plus[i] + some.numpy().astype(np.float64)
            total[i] += int(number)
    if not total[0]:
        raise ValueError("there is not one image to measure activations on")
    return {layer.name: p / n for layer, p, n in zip(layers, plus, total)}


def _input_quantizer(layer):
    quantizer = getattr(layer, "input_quantizer", None)
    return quantizer if getattr(quantizer, "precision", None) == 1 else None


def _number(value, digits=4, factor=1) -> str | None:
    return None if value is None else f"{factor * value:.{digits}f}"
