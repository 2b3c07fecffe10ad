"""Convolutions as OpenVINO operations: 1-bit ones in both forms, and others.

Tensors of rank 4 are `[batch, channels, height, width]` here, the layout of OpenVINO's kernels.
"""

from __future__ import annotations

from irnet_tf import layers as blocks
import numpy as np
import openvino as ov
from openvino import opset1
from openvino import opset13 as op
import tensorflow as tf

KERAS = tf.keras.layers

JUST_BELOW_ZERO = np.float32(-1.2e-38)
"""Threshold of a sign: close to the largest normal number below 0, so that sign(0) = +1."""

SMALL = 1e-30
"""In the int8 form, activations between `-2 * SMALL` and 0 count as 0."""


def constant(value, kind=np.float32):
    """Returns a constant. The array is copied: OpenVINO shares NumPy's memory otherwise."""
    return op.constant(np.array(value, kind))


def bits(positive, order):
    """Returns a constant of one bit per value.

    BinaryConvolution reads a byte's lowest bit first (`order="little"`), Convert its highest.
    """
    packed = np.packbits(positive.reshape(-1), bitorder=order)
    tensor = ov.Tensor(ov.Type.u1, ov.Shape(list(positive.shape)))
    tensor.data.reshape(-1)[:] = packed
    return ov.op.Constant(tensor)


def positive_of(weights, form) -> np.ndarray:
    """Returns which weights of a constant of `bits` are +1, for a convolution of that form."""
    shape = list(weights.get_output_shape(0))
    order = "little" if form == "binary" else "big"
    packed = np.asarray(weights.get_data()).view(np.uint8).reshape(-1)
    return np.unpackbits(packed, count=int(np.prod(shape)), bitorder=order).reshape(shape) == 1


def unpacked(positive, magnitude=1.0):
    """Returns (constant of bits, floats `+-magnitude` computed when the file is loaded)."""
    packed = bits(positive, "big")
    floats = op.convert(packed, np.float32)
    return packed, op.subtract(op.multiply(floats, constant(2 * magnitude)), constant(magnitude))


def scaled(x, scale, offset=None):
    """Returns `x * scale + offset`, one number per channel."""

    def along_channels(value):
        shape = [1, -1] + [1] * (len(x.get_output_partial_shape(0)) - 2)
        return constant(np.reshape(value, shape))

    x = op.multiply(x, along_channels(scale))
    return x if offset is None else op.add(x, along_channels(offset))


def channels_first(x):
    return op.transpose(x, constant([0, 3, 1, 2], np.int64))


def channels_last(x):
    return op.transpose(x, constant([0, 2, 3, 1], np.int64))


def rank(x) -> int:
    return len(x.get_output_partial_shape(0))


def one_bit_convolution(layer, weights, x, form):
    """Returns a 1-bit convolution without its activation function.

    The node `LAYER/sign` computes the input signs, the constant `LAYER/weights` holds the bits.

    Args:
        layer: Keras layer.
        weights: Arrays of the layer.
        x: Input node.
        form: `"binary"` (1-bit arithmetic) or `"int8"` (signs as bytes).

    Returns:
        `(integers, scale, offset)`: the output is `integers * scale + offset`, per channel.
    """
    kernel = weights[0]
    signs = (_binary_signs if form == "binary" else _int8_signs)(x)
    signs[0].set_friendly_name(f"{layer.name}/sign")
    positive = kernel.transpose(3, 2, 0, 1) > 0
    pads, pad_value, strides, dilations = _geometry(layer, x, kernel)
    if form == "binary":
        weights_node = bits(positive, "little")
        y = opset1.binary_convolution(
            signs[-1], weights_node, strides, *pads, dilations, "xnor-popcount", pad_value
        )
    else:
        weights_node, values = unpacked(positive)
        limits = [constant(limit) for limit in (-127.0, 127.0)]
        values = op.fake_quantize(values, *limits, *limits, 255)
        y = _convolve(signs[-1], values, pads, pad_value, strides, dilations)
    weights_node.set_friendly_name(f"{layer.name}/weights")
    return y, np.abs(kernel[0, 0, 0]), weights[1] if layer.use_bias else 0.0


def _binary_signs(x):
    # BinaryConvolution is right only for {0, 1}, which stand for -1 and +1.
    limit = constant(JUST_BELOW_ZERO)
    return [op.fake_quantize(x, limit, limit, constant(0.0), constant(1.0), 2)]


def _int8_signs(x):
    # Bytes of -1 and +1 in a range of -128..127, as a range of +-1 saturates on AVX2. The clamp
    # maps all that is not negative to 0, which the quantisation rounds up to +1.
    clamped = op.clamp(x, -2 * SMALL, 0.0)
    low, high = -128.75 * SMALL, (255 - 128.75) * SMALL
    limits = [constant(limit) for limit in (low, high, -128.0, 127.0)]
    return [clamped, op.fake_quantize(clamped, *limits, 256)]


def convolution(layer, weights, x, part):
    """Returns a convolution in float without its activation; `part` of it may be 1-bit."""
    kernel, bias = weights[0], weights[1] if layer.use_bias else None
    if part == "inputs":
        x = op.select(op.greater_equal(x, constant(0.0)), constant(1.0), constant(-1.0))
    if part == "weights":
        magnitude = np.abs(kernel[0, 0, 0]).reshape(-1, 1, 1, 1)
        _, values = unpacked(kernel.transpose(3, 2, 0, 1) > 0, magnitude)
    else:
        values = constant(kernel.transpose(3, 2, 0, 1))
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, KERAS.DepthwiseConv2D):
        height, width, groups, each = kernel.shape
        values = constant(kernel.transpose(2, 3, 0, 1).reshape(groups, each, 1, height, width))
    elif groups > 1:
        shape = [groups, -1, *kernel.transpose(3, 2, 0, 1).shape[1:]]
        values = op.reshape(values, constant(shape, np.int64), False)
    y = _convolve(x, values, *_geometry(layer, x, kernel), groups)
    return y if bias is None else op.add(y, constant(bias.reshape(1, -1, 1, 1)))


def _convolve(x, kernel, pads, pad_value, strides, dilations, groups=1):
    if pad_value:
        (top, left), (bottom, right) = pads
        begin, end = (constant([0, 0, *p], np.int64) for p in ((top, left), (bottom, right)))
        x, pads = op.pad(x, begin, end, "constant", constant(pad_value)), ([0, 0], [0, 0])
    convolution = op.group_convolution if groups > 1 else op.convolution
    return convolution(x, kernel, strides, *pads, dilations)


def _geometry(layer, x, kernel):
    """Returns (padding, padding value, strides, dilations)."""
    pads = pads_of(layer, x, kernel.shape[:2])
    pad_value = float(getattr(layer, "pad_values", 0.0))
    return pads, pad_value, list(layer.strides), list(layer.dilation_rate)


def pads_of(layer, x, window):
    """Returns the padding (begin, end) of height and width."""
    if isinstance(layer, (blocks.SymmetricConv2D, blocks.SymmetricMaxPool2D)):
        return [size // 2 for size in window], [size // 2 for size in window]
    if layer.padding != "same":
        return [0, 0], [0, 0]
    sides = [x.get_output_partial_shape(0)[axis].get_length() for axis in (2, 3)]
    dilations = getattr(layer, "dilation_rate", (1, 1))
    total = [
        max((-(-side // stride) - 1) * stride + (size - 1) * dilation + 1 - side, 0)
        for side, stride, size, dilation in zip(sides, layer.strides, window, dilations)
    ]
    return [t // 2 for t in total], [t - t // 2 for t in total]
