"""A device file against the network that it was made of, bit by bit where the two differ."""

from __future__ import annotations

import contextlib

from irnet_tf.export import lce, openvino
from irnet_tf.export.inputs import normalisation
from irnet_tf.export.plan import make_plan, require
from irnet_tf.export.rewrite import copy
import numpy as np
import tensorflow as tf

TOLERANCE = 1e-4
"""How far logits may be apart, given the same bits; relative to the largest, if that is above 1."""


@contextlib.contextmanager
def whole_float32():
    """Within it GPUs multiply float32 as such, like devices, and not rounded to TF32."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@whole_float32()
def compare(model: tf.keras.Model, file, images, *, labels=None, mean=None, std=None) -> dict:
    """How the file's logits differ from the network's, and why.

    Float sums depend on their order. An activation that is zero but for rounding can get one
    sign in TensorFlow and the other on a device; from there on logits differ visibly although
    nothing is wrong. Images whose logits differ are therefore traced: the network runs again
    with the bits that the file had. The two are equal if then the logits are, and if every
    bit that differs belongs to an activation within rounding of zero.

    Args:
        model: the network that `file` was made of.
        file: what `to_lce` or `to_openvino` returned.
        images: `[n, height, width, channels]`, of the type that the file takes.
        labels: classes of the images, int `[n]`, if there are any.
        mean, std: if they were given when the file was made.

    Returns:
        `images`: how many; `largest_difference`: of logits; `agreement`: share of images with
        the same top-1; `traced_images`: those that differ by more than `TOLERANCE`;
        `flipped_bits`: in those, run one by one; `largest_flipped`: the largest activation behind a
        flipped bit, relative to the layer's largest; `largest_difference_given_bits`: of logits
        once the bits are equal; `equal`: whether it and `largest_flipped` are within
        `TOLERANCE`.

        Only inputs of convolutions that are 1-bit as a whole can be traced.

        `accuracy`, with labels: shares of right top-1 of the `network` and the `file`.

    Raises:
        ValueError: if the images do not fit the model, or the file has other 1-bit weights.
    """
    images, device = np.asarray(images), device_of(file)
    require(
        images.dtype == device.input_type and images.shape[1:] == model.input_shape[1:],
        f"images must be {device.input_type} [n, {str(model.input_shape[1:])[1:-1]}], as the file "
        f"takes them, got {images.dtype} {list(images.shape)}",
    )
    require(len(images), "images must be one or more, got none")
    plan, network, x = make_plan(model, device.target), copy(model), images
    if device.input_type == np.uint8:
        scale, offset = normalisation(model, True, mean, std)
        x = images * scale + offset
    ours = network.predict(x, batch_size=16, verbose=0).reshape(len(images), -1)
    theirs = device.predict(images).reshape(len(images), -1)
    limit = TOLERANCE * max(1.0, float(np.abs(ours).max()))

    difference = np.abs(ours - theirs).max(1)
    # Not "> limit": that would let NaN pass.
    traced = np.flatnonzero(~(difference <= limit)) if plan.binary else []
    given_bits, flips = difference.copy(), [(0, 0.0)]
    for i in traced:
        bits = device.bits(plan, images[i : i + 1])
        logits, flipped = _run_with_bits(network, x[i : i + 1], bits)
        given_bits[i] = np.abs(logits.ravel() - theirs[i]).max()
        flips += flipped
    largest_flipped = max(size for _, size in flips)
    seen = {
        "images": len(images),
        "largest_difference": float(difference.max()),
        "agreement": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "traced_images": len(traced),
        "flipped_bits": sum(count for count, _ in flips),
        "largest_flipped": largest_flipped,
        "largest_difference_given_bits": float(given_bits.max()),
        "equal": bool(given_bits.max() <= limit and largest_flipped <= TOLERANCE),
    }
    if labels is not None:
        seen["accuracy"] = {
            name: float((outputs.argmax(1) == np.asarray(labels)).mean())
            for name, outputs in (("network", ours), ("file", theirs))
        }
    return seen


def device_of(file):
    """What runs a file on this machine: its `target`, `input_type`, `predict` and `bits`."""
    return lce.Device(file) if isinstance(file, bytes) else openvino.Device(file)


def _run_with_bits(network, x, bits):
    """(logits, [(how many bits differed, the largest activation behind one)] by layer)."""
    flipped = []

    def reader(signs):
        def quantize(activations):
            values = activations.numpy()
            differs = np.where(values >= 0, 1, -1) != signs
            if differs.any():
                relative = np.abs(values[differs]).max() / np.abs(values).max()
                flipped.append((int(differs.sum()), float(relative)))
            return tf.constant(signs)

        return quantize

    for name, signs in bits.items():
        network.get_layer(name).input_quantizer = reader(signs)
    return network(x, training=False).numpy(), flipped
