"""Keras layers and whole networks as OpenVINO operations.

Tensors of rank 4 are `[batch, channels, height, width]` here, the layout of OpenVINO's kernels.
"""

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
    pads_of,
    rank,
    scaled,
)
from irnet_tf.export.plan import activation_name
import larq as lq
import numpy as np
import openvino as ov
from openvino import opset1
from openvino import opset13 as op
import tensorflow as tf

KERAS = tf.keras.layers


def build(model, plan, form, batch_size, normalise, facts) -> ov.Model:
    """Builds the OpenVINO model of a planned network.

    Args:
        model: Keras model.
        plan: Plan of the export.
        form: `"binary"`, `"int8"` or `"float"`.
        batch_size: Batch size; None: any.
        normalise: Scale and offset of uint8 pixels, or None.
        facts: Facts to store in the file; the form is added.
    """
    kind = np.float32 if normalise is None else np.uint8
    shape = [-1 if batch_size is None else batch_size, *model.input_shape[1:]]
    images = op.parameter(ov.PartialShape(shape), kind, name="images")
    images.output(0).set_names({"images"})
    x = images
    if normalise is not None:
        scale, offset = (constant(value) for value in normalise)
        x = op.add(op.multiply(op.convert(images, np.float32), scale), offset)
    last = _emit_network(model, plan, form, channels_first(x))
    last = channels_last(last) if rank(last) == 4 else last
    last.output(0).set_names({facts["output"]})
    made = ov.Model([op.result(last)], [images], plan.name)
    made.set_rt_info(json.dumps({**facts, "form": form}), ["irnet_tf"])
    return made


def _emit_network(model, plan, form, images):
    """Returns the node of the network's last layer."""
    nodes, unscaled = {}, {}
    for node in nodes_in_order(model):
        position, layer = node.layer, plan.moved.get(node.layer, node.layer)
        weights = plan.weights[layer.name]
        parents = [parent.layer for parent in node.parent_nodes]
        if not parents:
            nodes[position] = images
        elif layer in plan.dropped:
            nodes[position] = nodes[parents[0]]
        elif plan.parts.get(layer) == "both":
            y, scale, offset = one_bit_convolution(layer, weights, nodes[parents[0]], form)
            readers = [plan.moved.get(reader, reader) for reader in plan.readers[position]]
            only_norm = [type(reader) for reader in readers] == [KERAS.BatchNormalization]
            if activation_name(layer) == "linear" and only_norm:
                unscaled[position] = y, scale, offset
            else:
                nodes[position] = _activate(layer, scaled(y, scale, offset))
        elif parents[0] in unscaled:
            y, scale, offset = unscaled[parents[0]]
            factor, shift = _batch_norm_factors(layer, weights)
            nodes[position] = scaled(y, scale * factor, offset * factor + shift)
        else:
            inputs = [nodes[parent] for parent in parents]
            if isinstance(layer, (KERAS.Conv2D, KERAS.DepthwiseConv2D)):
                y = convolution(layer, weights, inputs[0], plan.parts.get(layer))
                nodes[position] = _activate(layer, y)
            else:
                nodes[position] = _SIMPLE[type(layer)](layer, weights, *inputs)
    return nodes[model.outputs[0].node.layer]


def _batch_norm_factors(layer, weights):
    """Returns (scale, offset) of a batch norm, float64 `[channels]`."""
    weights = list(weights)
    complete = len(weights) == 4  # a plan may have added gamma and beta
    gamma = weights.pop(0) if layer.scale or complete else 1
    beta = weights.pop(0) if layer.center or complete else 0
    mean, variance = (np.asarray(value, np.float32) for value in weights)
    # TensorFlow adds epsilon in float32. The rest is exact and rounded once.
    scale = gamma / np.sqrt((variance + np.float32(layer.epsilon)).astype(np.float64))
    return scale, beta - mean * scale


def _batch_norm(layer, weights, x):
    return scaled(x, *_batch_norm_factors(layer, weights))


def _max_pool(layer, weights, x):
    pads = pads_of(layer, x, layer.pool_size)
    return opset1.max_pool(x, list(layer.strides), *pads, list(layer.pool_size))


def _average_pool(layer, weights, x):
    pads = pads_of(layer, x, layer.pool_size)
    return op.avg_pool(x, list(layer.strides), *pads, list(layer.pool_size), exclude_pad=True)


def _global_pool(reduce):
    return lambda layer, weights, x: reduce(x, constant([2, 3], np.int64), layer.keepdims)


def _dense(layer, weights, x):
    kernel, bias = weights[0], weights[1] if layer.use_bias else None
    y = op.matmul(channels_last(x) if rank(x) == 4 else x, constant(kernel), False, False)
    if bias is not None:
        y = op.add(y, constant(bias))
    return _activate(layer, channels_first(y) if rank(x) == 4 else y)


def _reshape(layer, weights, x):
    shape = layer.output_shape[1:]
    y = channels_last(x) if rank(x) == 4 else x
    y = op.reshape(y, constant([0, *shape], np.int64), True)
    return channels_first(y) if len(shape) == 3 else y


def _concatenate(layer, weights, *inputs):
    axis = layer.axis % rank(inputs[0])
    return op.concat(list(inputs), {1: 2, 2: 3, 3: 1}[axis] if rank(inputs[0]) == 4 else axis)


def _fold(operation):
    return lambda layer, weights, *inputs: functools.reduce(operation, inputs)


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
        below = op.multiply(op.subtract(x, constant(threshold)), constant(slope))
        y = op.select(op.greater_equal(x, constant(threshold)), x, below)
    else:
        y = op.prelu(x, constant(slope)) if slope else op.relu(x)
    return y if layer.max_value is None else op.minimum(y, constant(layer.max_value))


def _prelu(layer, weights, x):
    alpha = np.broadcast_to(weights[0], layer.input_shape[1:])
    alpha = constant(alpha.transpose(2, 0, 1)[None] if alpha.ndim == 3 else alpha)
    return op.select(op.less(x, constant(0.0)), op.multiply(x, alpha), x)


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


def _activate(layer, x):
    return ACTIVATIONS[activation_name(layer)](x)


_SIMPLE = {
    blocks.HardTanh: lambda layer, weights, x: op.clamp(x, -1.0, 1.0),
    blocks.OptionAShortcut: _option_a,
    blocks.SymmetricMaxPool2D: _max_pool,
    KERAS.Activation: lambda layer, weights, x: _activate(layer, x),
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
"""Supported types of Keras layers."""
