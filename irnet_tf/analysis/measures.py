"""Measures of binary weights and activations, in NumPy, independent of the quantizers' code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import math

from irnet_tf._utils import csv_text, markdown_table
from irnet_tf.quantizers import KernelQuantizer, LibraPB, output_axes
import numpy as np
import tensorflow as tf

# Measure: head of its column in the table, decimals, factor and explanation.
COLUMNS = {
    "name": ("layer", None, 1, "layer, from input to output"),
    "quantizer": ("quantizer", None, 1, "class of the kernel quantizer"),
    "weights": ("weights", None, 1, "number of binary weights"),
    "weight_entropy": ("bit/weight", 4, 1, "entropy of the binary weights, at most 1; mean over "
                       "output channels"),
    "plain_entropy": ("plain", 4, 1, "bit/weight of the plain sign of the latent weights"),
    "weight_balance": ("+1 %", 1, 100, "share of weights that are +1"),
    "exponents": ("scales", None, 1, "s:share of the output channels with weights +-2**s"),
    "error": ("error", 3, 1, "quantization error in units of the latent weights' variance; for "
              "Libra-PB from the balanced and standardised weights, as in the paper"),
    "plain_error": ("plain error", 3, 1, "quantization error of the plain sign: mean of (w / std - "
                    "sign(w))**2 with the channel's std"),
    "cosine": ("cosine", 3, 1, "cosine between latent and binary weights; mean over output "
               "channels"),
    "activation_entropy": ("bit/act.", 4, 1, "entropy of the binary activations, at most 1; mean "
                           "over input channels, from all images and positions"),
    "activation_balance": ("act. +1 %", 1, 100, "share of activations that are +1"),
    "silent_channels": ("silent %", 1, 100, "share of input channels that never change sign"),
}  # fmt: skip


def entropy(share) -> np.ndarray:
    """Entropy in bits of a bit that is +1 with probability `share`; any shape."""
    share = np.asarray(share, np.float64)
    one, other = np.clip(share, 1e-300, 1), np.clip(1 - share, 1e-300, 1)
    return -(share * np.log2(one) + (1 - share) * np.log2(other))


def analyse(
    model: tf.keras.Model, images: Iterable | None = None, *, latent: bool = True
) -> list[dict]:
    """Measures of every layer with binary weights or activations, in the model's order.

    Args:
        model: Keras model; nested models are not analysed.
        images: Batches `[b, height, width, channels]`, normalised; None: no measures of
            activations.
        latent: Whether the weights are the latent weights of a run. Weights loaded from a 1-bit
            file only determine the bits.

    Returns:
        The known measures of each layer by the names in `COLUMNS`. Shares are fractions;
        `exponents` are a dict from s to the share.

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
        known = {"name": layer.name, **(_weight_facts(*binary, latent) if binary else {})}
        if layer.name in shares:
            share = shares[layer.name]
            known["activation_entropy"] = float(entropy(share).mean())
            known["activation_balance"] = float(share.mean())
            known["silent_channels"] = float(np.mean((share == 0) | (share == 1)))
        facts.append(known)
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


def as_csv(facts: Sequence[dict]) -> str:
    """A row per layer; exponents as `s:share` pairs."""
    rows = [{**dict.fromkeys(COLUMNS), **layer} for layer in facts]
    for row in rows:
        pairs = (row["exponents"] or {}).items()
        row["exponents"] = " ".join(f"{s}:{share:.6g}" for s, share in pairs)
    return csv_text(COLUMNS, [row.values() for row in rows])


def as_markdown(facts: Sequence[dict]) -> str:
    """The table, without empty columns, and an explanation of its columns."""
    columns, notes = {}, ""
    for name, (head, decimals, factor, explanation) in COLUMNS.items():
        if any(name in layer for layer in facts):
            columns[head] = [_text(layer.get(name), decimals, factor) for layer in facts]
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
    }
    if exact:
        facts["exponents"] = dict(zip(values.tolist(), (counts / len(powers)).tolist()))
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
