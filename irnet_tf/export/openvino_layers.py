"""Keras layers as OpenVINO operations.

Tensors of rank 4 are `[batch, channels, height, width]` here, as OpenVINO's kernels want them.
"""

from __future__ import annotations

from irnet_tf import layers as blocks
from irnet_tf.export.openvino_convolutions import (
    channels_first,
    channels_last,
    constant,
    convolution,
    pads_of,
    rank,
    scaled,
)
from irnet_tf.export.plan import activation_name
import larq as lq
import numpy as np
from openvino import opset1
from openvino import opset13 as op
import tensorflow as tf

KERAS = tf.keras.layers


def emit(layer, weights, inputs, part):
    """The operations of a layer that is not 1-bit in weights and inputs.

    Args:
        layer: Keras's, of a type in `LAYERS`.
        weights: its arrays, quantized, in Keras's order.
        inputs: nodes that it reads.
        part: what of it is 1-bit, as in `Plan.parts`.
    """
    if isinstance(layer, (KERAS.Conv2D, KERAS.DepthwiseConv2D)):
        return activate(layer, convolution(layer, weights, inputs[0], part))
    return _SIMPLE[type(layer)](layer, weights, *inputs)


def batch_norm_factors(layer, weights):
    """(scale, offset) of a batch norm, float64 `[channels]`."""
    weights = list(weights)
    whole = len(weights) == 4  # also where a plan has given the layer what it lacked
    gamma = weights.pop(0) if layer.scale or whole else 1
    beta = weights.pop(0) if layer.center or whole else 0
    mean, variance = (np.asarray(value, np.float32) for value in weights)
    # The sum in float32, as TensorFlow has it; the rest exactly, and then rounded once.
    scale = gamma / np.sqrt((variance + np.float32(layer.epsilon)).astype(np.float64))
    return scale, beta - mean * scale


def _batch_norm(layer, weights, x):
    return scaled(x, *batch_norm_factors(layer, weights))


def _max_pool(layer, weights, x):
    pads = pads_of(layer, x, layer.pool_size)
    return opset1.max_pool(x, list(layer.strides), *pads, list(layer.pool_size))


def _average_pool(layer, weights, x):
    pads = pads_of(layer, x, layer.pool_size)
    return op.avg_pool(x, list(layer.strides), *pads, list(layer.pool_size), exclude_pad=True)


def _global_pool(reduce):
    def emit_pool(layer, weights, x):
        y = reduce(x, constant([2, 3], np.int64), False)
        return op.reshape(y, constant([0, 0, 1, 1], np.int64), True) if layer.keepdims else y

    return emit_pool


def _dense(layer, weights, x):
    kernel, bias = weights[0], weights[1] if layer.use_bias else None
    y = op.matmul(channels_last(x) if rank(x) == 4 else x, constant(kernel), False, False)
    if bias is not None:
        y = op.add(y, constant(bias))
    return activate(layer, channels_first(y) if rank(x) == 4 else y)


def _reshape(layer, weights, x):
    target = layer.output_shape[1:]
    y = channels_last(x) if rank(x) == 4 else x
    y = op.reshape(y, constant([0, *target], np.int64), True)
    return channels_first(y) if len(target) == 3 else y


def _concatenate(layer, weights, *inputs):
    axis = layer.axis % rank(inputs[0])
    return op.concat(list(inputs), {1: 2, 2: 3, 3: 1}[axis] if rank(inputs[0]) == 4 else axis)


def _fold(operation):
    def emit_all(layer, weights, *inputs):
        y, *others = inputs
        for other in others:
            y = operation(y, other)
        return y

    return emit_all


def _option_a(layer, weights, x):
    s, axes = layer.strides, [1] * 4
    zeros = constant([0] * 4, np.int64)
    y = op.strided_slice(x, zeros, zeros, constant([1, 1, s, s], np.int64), axes, axes)
    missing = layer.filters - x.get_output_partial_shape(0)[1].get_length()
    ends = (missing // 2, missing - missing // 2)
    begin, end = (constant([0, count, 0, 0], np.int64) for count in ends)
    return op.pad(y, begin, end, "constant", constant(0.0))


def _relu(layer, weights, x):
    slope, threshold = float(layer.negative_slope), float(layer.threshold)
    if threshold:
        over = op.multiply(op.subtract(x, constant(threshold)), constant(slope))
        y = op.select(op.greater_equal(x, constant(threshold)), x, over)
    else:
        y = op.prelu(x, constant(slope)) if slope else op.relu(x)
    return y if layer.max_value is None else op.minimum(y, constant(layer.max_value))


def _prelu(layer, weights, x):
    alpha = np.broadcast_to(weights[0], x_shape(layer))
    return op.select(
        op.less(x, constant(0.0)),
        op.multiply(x, constant(alpha.transpose(2, 0, 1)[None] if alpha.ndim == 3 else alpha)),
        x,
    )


def x_shape(layer):
    return layer.input_shape[1:]


def _rescaling(layer, weights, x):
    return op.add(op.multiply(x, constant(layer.scale)), constant(layer.offset))


def _zero_padding(layer, weights, x):
    (top, bottom), (left, right) = layer.padding
    begin, end = (constant([0, 0, *p], np.int64) for p in ((top, left), (bottom, right)))
    return op.pad(x, begin, end, "constant", constant(0.0))


def _softmax(x):
    return op.softmax(x, 1 if rank(x) == 4 else -1)


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": op.relu,
    "relu6": lambda x: op.clamp(x, 0.0, 6.0),
    "softmax": _softmax,
    "sigmoid": op.sigmoid,
    "tanh": op.tanh,
    "hard_tanh": lambda x: op.clamp(x, -1.0, 1.0),
}
"""Activation functions by name."""


def activate(layer, x):
    return ACTIVATIONS[activation_name(layer)](x)


_SIMPLE = {
    blocks.HardTanh: lambda layer, weights, x: op.clamp(x, -1.0, 1.0),
    blocks.OptionAShortcut: _option_a,
    blocks.SymmetricMaxPool2D: _max_pool,
    KERAS.Activation: lambda layer, weights, x: activate(layer, x),
    KERAS.Add: _fold(op.add),
    KERAS.AveragePooling2D: _average_pool,
    KERAS.BatchNormalization: _batch_norm,
    KERAS.Concatenate: _concatenate,
    KERAS.Dense: _dense,
    KERAS.Dropout: lambda layer, weights, x: x,
    KERAS.Flatten: _reshape,
    KERAS.GlobalAveragePooling2D: _global_pool(op.reduce_mean),
    KERAS.GlobalMaxPooling2D: _global_pool(op.reduce_max),
    KERAS.MaxPooling2D: _max_pool,
    KERAS.Multiply: _fold(op.multiply),
    KERAS.PReLU: _prelu,
    KERAS.ReLU: _relu,
    KERAS.Rescaling: _rescaling,
    KERAS.Reshape: _reshape,
    KERAS.Softmax: lambda layer, weights, x: _softmax(x),
    KERAS.ZeroPadding2D: _zero_padding,
}

LAYERS = (
    lq.layers.QuantConv2D,
    blocks.SymmetricConv2D,
    KERAS.Conv2D,
    KERAS.DepthwiseConv2D,
    KERAS.InputLayer,
    *_SIMPLE,
)
"""Types of layers that `emit` knows."""
