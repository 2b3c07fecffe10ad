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


def one_bit_weights(kernel, form, magnitude=1.0):
    """Returns (constant of one bit per weight of a kernel, the node that a convolution reads).

    BinaryConvolution reads bits, of a byte the lowest first. Other convolutions read floats
    `+-magnitude`, computed when the file is loaded; Convert reads the highest bit first.
    """
    positive = kernel.transpose(3, 2, 0, 1) > 0
    packed = np.packbits(positive.reshape(-1), bitorder="little" if form == "binary" else "big")
    tensor = ov.Tensor(ov.Type.u1, ov.Shape(list(positive.shape)))
    tensor.data.reshape(-1)[:] = packed
    bits = ov.op.Constant(tensor)
    if form == "binary":
        return bits, bits
    doubled = op.multiply(op.convert(bits, np.float32), constant(2 * magnitude))
    return bits, op.subtract(doubled, constant(magnitude))


def scaled(x, scale, offset=None):
    """Returns `x * scale + offset`, one number per channel."""

    shape = [1, -1] + [1] * (rank(x) - 2)
    x = op.multiply(x, constant(np.reshape(scale, shape)))
    return x if offset is None else op.add(x, constant(np.reshape(offset, shape)))


def rank(x) -> int:
    return len(x.get_output_partial_shape(0))


def channels_first(x):
    """Transposes `x`, if it has rank 4."""
    return op.transpose(x, constant([0, 3, 1, 2], np.int64)) if rank(x) == 4 else x


def channels_last(x):
    """Transposes `x`, if it has rank 4."""
    return op.transpose(x, constant([0, 2, 3, 1], np.int64)) if rank(x) == 4 else x


def padded(x, begin, end, value=0.0):
    """Pads `x` by numbers of values per axis."""
    begin, end = constant(begin, np.int64), constant(end, np.int64)
    return op.pad(x, begin, end, "constant", constant(value))


def one_bit_convolution(layer, x, form):
    """Returns a 1-bit convolution without its activation function.

    The node `LAYER/sign` computes the input signs, the constant `LAYER/weights` holds the bits.

    Args:
        layer: Keras layer.
        x: Input node.
        form: `"binary"` (1-bit arithmetic) or `"int8"` (signs as bytes).
    """
    kernel, *bias = layer.get_weights()
    bits, values = one_bit_weights(kernel, form)
    if form == "binary":
        # BinaryConvolution is right only for {0, 1}, which stand for -1 and +1.
        limit = constant(JUST_BELOW_ZERO)
        sign = signs = op.fake_quantize(x, limit, limit, constant(0.0), constant(1.0), 2)
        y = opset1.binary_convolution(
            signs,
            values,
            list(layer.strides),
            *pads_of(layer, x, kernel.shape[:2]),
            list(layer.dilation_rate),
            "xnor-popcount",
            float(layer.pad_values),
        )
    else:
        # Bytes of -1 and +1 in a range of -128..127, as a range of +-1 saturates on AVX2. The clamp
        # maps all that is not negative to 0, which the quantisation rounds up to +1.
        sign = op.clamp(x, -2 * SMALL, 0.0)
        low, high = -128.75 * SMALL, (255 - 128.75) * SMALL
        signs = op.fake_quantize(sign, *map(constant, (low, high, -128.0, 127.0)), 256)
        limits = [constant(limit) for limit in (-127.0, 127.0)]
        values = op.fake_quantize(values, *limits, *limits, 255)
        y = _convolve(layer, signs, values, kernel.shape[:2])
    sign.set_friendly_name(f"{layer.name}/sign")
    bits.set_friendly_name(f"{layer.name}/weights")
    return scaled(y, np.abs(kernel[0, 0, 0]), *bias)


def convolution(layer, x, part):
    """Returns a convolution in float without its activation; `part` of it may be 1-bit."""
    (kernel, *bias), groups = layer.get_weights(), layer.groups
    if part == "inputs":
        x = op.select(op.greater_equal(x, constant(0.0)), constant(1.0), constant(-1.0))
    if part == "weights":
        magnitude = np.abs(kernel[0, 0, 0]).reshape(-1, 1, 1, 1)
        _, values = one_bit_weights(kernel, "float", magnitude)
    else:
        values = constant(kernel.transpose(3, 2, 0, 1))
    if isinstance(layer, KERAS.DepthwiseConv2D):
        height, width, groups, each = kernel.shape
        values = constant(kernel.transpose(2, 3, 0, 1).reshape(groups, each, 1, height, width))
    elif groups > 1:
        shape = [groups, -1, *kernel.transpose(3, 2, 0, 1).shape[1:]]
        values = op.reshape(values, constant(shape, np.int64), False)
    y = _convolve(layer, x, values, kernel.shape[:2], groups)
    return op.add(y, constant(bias[0].reshape(1, -1, 1, 1))) if bias else y


def _convolve(layer, x, kernel, window, groups=1):
    pads = pads_of(layer, x, window)
    if value := float(getattr(layer, "pad_values", 0.0)):
        (top, left), (bottom, right) = pads
        x = padded(x, [0, 0, top, left], [0, 0, bottom, right], value)
        pads = [0, 0], [0, 0]
    function = op.group_convolution if groups > 1 else op.convolution
    return function(x, kernel, list(layer.strides), *pads, list(layer.dilation_rate))


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
