"""Comparison of an exported file with its network, bit by bit where outputs differ."""

from __future__ import annotations

from irnet_tf.export import lce, openvino
from irnet_tf.export.plan import make_plan, require
from irnet_tf.export.rewrite import copy, normalisation
import numpy as np
import tensorflow as tf

TOLERANCE = 1e-4
"""Allowed difference of logits, given equal bits; relative to the largest logit if above 1."""


def compare(model: tf.keras.Model, file, images, *, labels=None) -> dict:
    """Compares the outputs of a file with those of its network.

    The rounding error of a float sum depends on the order of the summands. An activation that is
    zero up to rounding can therefore have one sign in TensorFlow and the other on a device, and
    all later layers see a different bit. Images whose logits differ are traced: the network runs
    again with the bits of the file. File and network are equal if the logits then agree, and if
    every differing bit belongs to an activation within rounding of zero. Only convolutions with
    1-bit weights and 1-bit inputs can be traced.

    Args:
        model: Network that `file` was made from.
        file: Result of `to_lce` or `to_openvino`.
        images: Array `[n, height, width, channels]` of the file's input type.
        labels: Class indices of the images, int `[n]`.

    Returns:
        A dict with

        - `images`: number of images
        - `largest_difference`: largest difference of a logit
        - `agreement`: fraction of images with the same top-1 class
        - `traced_images`: number of images that differ by more than `TOLERANCE`
        - `flipped_bits`: number of bits that differ in the traced images, run one at a time
        - `largest_flipped`: largest activation behind a differing bit, relative to its layer
        - `largest_difference_given_bits`: largest difference of a logit, given equal bits
        - `equal`: whether the last two are within `TOLERANCE`
        - `accuracy`: top-1 accuracy of `network` and `file`, if labels are given

    Raises:
        ValueError: If the images do not fit the model, or the file has other 1-bit weights.
    """
    device = lce.Device(file) if isinstance(file, bytes) else openvino.Device(file)
    images = np.asarray(images)
    require(
        len(images)
        and images.dtype == device.input_type
        and images.shape[1:] == model.input_shape[1:],
        f"images must be {device.input_type} [n, {str(model.input_shape[1:])[1:-1]}], the file's "
        f"input, got {images.dtype} {list(images.shape)}",
    )
    plan, x = make_plan(model, device.target), images
    if device.input_type == np.uint8:
        scale, offset = normalisation(model)
        x = images * scale + offset
    theirs = device.predict(images).reshape(len(images), -1)
    with tf.device("CPU:0"):  # a GPU rounds float32 products to TF32
        network = copy(model)
        ours = network.predict(x, batch_size=16, verbose=0).reshape(len(images), -1)
        limit = TOLERANCE * max(1.0, float(np.abs(ours).max()))
        difference = np.abs(ours - theirs).max(1)
        # "> limit" would let NaN pass.
        traced = np.flatnonzero(~(difference <= limit)) if plan.binary else []
        given_bits, flips = difference.copy(), [(0, 0.0)]
        for i in traced:
            bits = device.bits(plan, images[i : i + 1])
            logits, flipped = _run_with_bits(network, x[i : i + 1], bits)
            given_bits[i] = np.abs(logits.ravel() - theirs[i]).max()
            flips += flipped
    largest_flipped = max(size for _, size in flips)
    result = {
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
        result["accuracy"] = {
            name: float((outputs.argmax(1) == np.asarray(labels)).mean())
            for name, outputs in (("network", ours), ("file", theirs))
        }
    return result


def _run_with_bits(network, x, bits):
    """Returns (logits, [(number of differing bits, largest activation behind one)] per layer)."""
    flipped = []

    def replace_with(signs):
        def quantize(activations):
            values = activations.numpy()
            differs = np.where(values >= 0, 1, -1) != signs
            if differs.any():
                relative = np.abs(values[differs]).max() / np.abs(values).max()
                flipped.append((int(differs.sum()), float(relative)))
            return tf.constant(signs)

        return quantize

    for name, signs in bits.items():
        network.get_layer(name).input_quantizer = replace_with(signs)
    return network(x, training=False).numpy(), flipped
