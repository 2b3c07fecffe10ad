"""Keras layers and whole networks as OpenVINO operations, in `openvino_convolutions`'s layout."""

from __future__ import annotations

import functools
import json

from irnet_tf import layers as blocks
from irnet_tf._compat import nodes_in_order
from irnet_tf.export.openvino_convolutions import (
    channels_first,
    channels_last,
    constant,
    convolution,
    one_bit_convolution,
    padded,
    pads_of,
    rank,
    scaled,
)
from irnet_tf.export.plan import require
import larq as lq
import numpy as np
import openvino as ov
from openvino import opset1
from openvino import opset13 as op
import tensorflow as tf

KERAS = tf.keras.layers


def build(network, plan, form, normalise, facts) -> ov.Model:
    """Builds the OpenVINO model of a planned network.

    Args:
        network: The network as planned, see `rewrite.rewritten`.
        plan: Plan of the export.
        form: `"binary"`, `"int8"` or `"float"`.
        normalise: Scale and offset of uint8 pixels, or None.
        facts: Facts to store in the file; the form is added.
    """
    kind = np.float32 if normalise is None else np.uint8
    images = x = op.parameter(list(network.input_shape), kind, name="images")
    images.output(0).set_names({"images"})
    if normalise is not None:
        scale, offset = (constant(value) for value in normalise)
        x = op.add(op.multiply(op.convert(x, np.float32), scale), offset)
    nodes = {}
    for node in nodes_in_order(network):
        layer, inputs = node.layer, [nodes[parent.layer] for parent in node.parent_nodes]
        part = plan.parts.get(layer.name)
        if not inputs:
            y = channels_first(x)
        elif part == "both":
            y = _activate(layer, one_bit_convolution(layer, inputs[0], form))
        elif isinstance(layer, (KERAS.Conv2D, KERAS.DepthwiseConv2D)):
            y = _activate(layer, convolution(layer, inputs[0], part))
        else:
            y = _SIMPLE[type(layer)](layer, *inputs)
        nodes[layer] = y
    last = channels_last(nodes[network.outputs[0].node.layer])
    last.output(0).set_names({facts["output"]})
    made = ov.Model([op.result(last)], [images], plan.name)
    made.set_rt_info(json.dumps({**facts, "form": form}), ["irnet_tf"])
    return made


def _batch_norm(layer, x):
    gamma = layer.gamma.numpy() if layer.scale else 1
    beta = layer.beta.numpy() if layer.center else 0
    # TensorFlow adds epsilon in float32. The rest is exact and rounded once.
    variance = layer.moving_variance.numpy() + np.float32(layer.epsilon)
    scale = gamma / np.sqrt(variance.astype(np.float64))
    return scaled(x, scale, beta - layer.moving_mean.numpy() * scale)


def _max_pool(layer, x):
    pads = pads_of(layer, x, layer.pool_size)
    return opset1.max_pool(x, list(layer.strides), *pads, list(layer.pool_size))


def _average_pool(layer, x):
    pads = pads_of(layer, x, layer.pool_size)
    return op.avg_pool(x, list(layer.strides), *pads, list(layer.pool_size), exclude_pad=True)


def _global_pool(reduce):
    return lambda layer, x: reduce(x, constant([2, 3], np.int64), layer.keepdims)


def _dense(layer, x):
    kernel, *bias = map(constant, layer.get_weights())
    y = op.matmul(channels_last(x), kernel, False, False)
    y = op.add(y, *bias) if bias else y
    return _activate(layer, channels_first(y))


def _reshape(layer, x):
    shape = constant([0, *layer.output_shape[1:]], np.int64)
    return channels_first(op.reshape(channels_last(x), shape, True))


def _concatenate(layer, *inputs):
    axis = layer.axis % rank(inputs[0])
    return op.concat(list(inputs), {1: 2, 2: 3, 3: 1}[axis] if rank(inputs[0]) == 4 else axis)


def _fold(operation):
    return lambda layer, *inputs: functools.reduce(operation, inputs)


def _option_a(layer, x):
    s, axes = layer.strides, [1] * 4
    zeros = constant([0] * 4, np.int64)
    y = op.strided_slice(x, zeros, zeros, constant([1, 1, s, s], np.int64), axes, axes)
    missing = layer.filters - x.get_output_partial_shape(0)[1].get_length()
    return padded(y, [0, missing // 2, 0, 0], [0, missing - missing // 2, 0, 0])


def _relu(layer, x):
    slope, threshold = constant(layer.negative_slope), constant(layer.threshold)
    if layer.negative_slope or layer.threshold:
        below = op.multiply(op.subtract(x, threshold), slope)
        y = op.select(op.greater_equal(x, threshold), x, below)
    else:
        y = op.relu(x)
    return y if layer.max_value is None else op.minimum(y, constant(layer.max_value))


def _prelu(layer, x):
    alpha = np.broadcast_to(layer.alpha, layer.input_shape[1:])
    alpha = constant(alpha.transpose(2, 0, 1)[None] if alpha.ndim == 3 else alpha)
    return op.select(op.less(x, constant(0.0)), op.multiply(x, alpha), x)


def _rescaling(layer, x):
    return op.add(op.multiply(x, constant(layer.scale)), constant(layer.offset))


def _zero_padding(layer, x):
    (top, bottom), (left, right) = layer.padding
    return padded(x, [0, 0, top, left], [0, 0, bottom, right])


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


def _activate(layer, x):
    name = getattr(layer.activation, "__name__", layer.activation)
    require(
        name in ACTIVATIONS,
        f"layer {layer.name!r} has the activation {name!r}, which is not supported; use one of "
        f"{', '.join(ACTIVATIONS)}",
    )
    return ACTIVATIONS[name](x)


_SIMPLE = {
    blocks.HardTanh: lambda layer, x: op.clamp(x, -1.0, 1.0),
    blocks.OptionAShortcut: _option_a,
    blocks.SymmetricMaxPool2D: _max_pool,
    KERAS.Activation: lambda layer, x: _activate(layer, x),
    KERAS.Add: _fold(op.add),
    KERAS.AveragePooling2D: _average_pool,
    KERAS.BatchNormalization: _batch_norm,
    KERAS.Concatenate: _concatenate,
    KERAS.Dense: _dense,
    KERAS.Dropout: lambda layer, x: x,
    KERAS.Flatten: _reshape,
    KERAS.GlobalAveragePooling2D: _global_pool(op.reduce_mean),
    KERAS.GlobalMaxPooling2D: _global_pool(op.reduce_max),
    KERAS.MaxPooling2D: _max_pool,
    KERAS.Multiply: _fold(op.multiply),
    KERAS.PReLU: _prelu,
    KERAS.ReLU: _relu,
    KERAS.Rescaling: _rescaling,
    KERAS.Reshape: _reshape,
    KERAS.Softmax: lambda layer, x: _softmax(x),
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
"""Supported types of Keras layers."""
