"""Batch norms behind 1-bit convolutions: thresholds in front of signs, and in front of poolings."""

from __future__ import annotations

from irnet_tf import layers as blocks
import numpy as np
import tensorflow as tf


def fold(plan) -> None:
    """Bring norms into the form that a target fuses with the 1-bit convolution in front of them.

    Where only a sign reads a norm, it becomes a threshold, half-way between two of the integers
    that the convolution can give. A max pooling between the two changes places with the norm:
    pooling commutes with what rises. Channels that fall are negated: `a * max(x) + b` is
    `-max(-(a * x + b))`. The next convolution or dense layer, to which only Hardtanh or a sign
    lead, takes the sign into its weights.

    Args:
        plan: whose `moved`, `weights`, `negated` and `notes` are changed.
    """

    def next_of(layer, kind=tf.keras.layers.Layer):
        others = plan.readers.get(layer, [])
        return others[0] if len(others) == 1 and isinstance(others[0], kind) else None

    thresholds = []
    for conv in (layer for layer, part in plan.parts.items() if part == "both"):
        pool = next_of(conv, tf.keras.layers.MaxPooling2D)
        norm = next_of(pool or conv, tf.keras.layers.BatchNormalization)
        if not norm or conv.use_bias or conv.activation is not tf.keras.activations.linear:
            continue
        reader = next_of(norm)
        reader = next_of(reader) if type(reader) is blocks.HardTanh else reader
        if plan.parts.get(reader) == "both":
            weights, negative = _thresholds(norm, plan.kernel(conv.name))
            if negative.any() and reader.padding == "same" and reader.pad_values:
                continue  # the border would have the other sign
            plan.negated[reader.name] = negative
            plan.kernel(reader.name)[:, :, negative] *= -1
            thresholds.append(norm.name)
        elif not pool:
            continue
        else:
            weights, negative = _rising(norm)
            flat = reader if isinstance(reader, tf.keras.layers.Flatten) else None
            reader = next_of(flat, tf.keras.layers.Dense)
            if negative.any() and not reader:
                plan.notes.append(
                    f"{norm.name} stays behind {pool.name}: {negative.sum()} of its channels fall, "
                    "and no layer follows that could take their sign into its weights"
                )
                continue
            if negative.any():
                rows = plan.kernel(reader.name).reshape(-1, len(negative), reader.units)
                rows[:, negative] *= -1
        plan.weights[norm.name] = weights
        if pool:
            plan.moved[pool], plan.moved[norm] = norm, pool
            until = negative.any() and f", {negative.sum()} channels negated until {reader.name}"
            plan.notes.append(f"moved {norm.name} in front of {pool.name}{until or ''}")
    if thresholds:
        plan.notes.append(
            f"made thresholds of {len(thresholds)} batch norms that only signs read: "
            f"{', '.join(thresholds)}"
        )


def _thresholds(norm, kernel):
    """Batch-norm weights whose sign, through a max pooling, is that of the norm behind it.

    A 1-bit convolution gives integers m times its weights' magnitude. So the norm becomes
    `m > t`, t half-way between the integers where its sign changes, as TensorFlow computes it.
    Channels that fall get the opposite sign, at a tie too; negating alone would not give that,
    as sign(0) = +1.

    Returns:
        `([gamma, beta, mean, variance], negated channels)`.
    """
    magnitude = np.abs(kernel[0, 0, 0]).astype(np.float32)
    most = int(np.prod(kernel.shape[:3]))
    sums = np.arange(-most, most + 1, dtype=np.float32)[:, None, None, None] * magnitude
    gamma, beta, mean, variance = _norm_weights(norm)
    values, *_ = tf.compat.v1.nn.fused_batch_norm(
        sums, gamma, beta, mean, variance, norm.epsilon, is_training=False
    )
    positive = values.numpy()[:, 0, 0] >= 0
    negated = positive[0] & ~positive[-1]
    threshold = (positive == negated).sum(0) - most - 0.5
    ones = np.ones_like(magnitude)
    return [ones, 0 * ones, (magnitude * threshold).astype(np.float32), ones], negated


def _rising(norm):
    """Batch-norm weights with the channels negated that fall; returns as `_thresholds`."""
    gamma, beta, mean, variance = _norm_weights(norm)
    sign = np.where(gamma < 0, -1, 1).astype(np.float32)
    return [sign * gamma, sign * beta, mean, variance], gamma < 0


def _norm_weights(norm):
    mean, variance = (
        v.numpy().astype(np.float32) for v in (norm.moving_mean, norm.moving_variance)
    )
    gamma = norm.gamma.numpy().astype(np.float32) if norm.scale else np.ones_like(mean)
    beta = norm.beta.numpy().astype(np.float32) if norm.center else np.zeros_like(mean)
    return gamma, beta, mean, variance
