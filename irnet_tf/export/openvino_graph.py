"""A planned network as an OpenVINO model."""

from __future__ import annotations

import json

from irnet_tf._compat import nodes_in_order
from irnet_tf.export import openvino_layers as layers
from irnet_tf.export.openvino_convolutions import (
    channels_first,
    channels_last,
    constant,
    one_bit_convolution,
    rank,
    scaled,
)
from irnet_tf.export.plan import activation_name
import numpy as np
import openvino as ov
from openvino import opset13 as op
import tensorflow as tf


def build(model, plan, form, batch_size, normalise, facts) -> ov.Model:
    """An OpenVINO model of a planned network.

    Args:
        model, plan: Keras's, and what is done to it.
        form: `"binary"`, `"int8"` or `"float"`; kept in the file's facts.
        batch_size: None for any.
        normalise: as of `inputs.normalisation`.
        facts: as of `inputs.describe_file`.
    """
    kind = np.float32 if normalise is None else np.uint8
    shape = [-1 if batch_size is None else batch_size, *model.input_shape[1:]]
    images = op.parameter(ov.PartialShape(shape), kind, name="images")
    images.output(0).set_names({"images"})
    last = _emit_layers(model, plan, form, channels_first(_normalised(images, normalise)))
    last = channels_last(last) if rank(last) == 4 else last
    last.output(0).set_names({facts["output"]})
    made = ov.Model([op.result(last)], [images], plan.name)
    made.set_rt_info(json.dumps({**facts, "form": form}), ["irnet_tf"])
    return made


def _normalised(images, normalise):
    if normalise is None:
        return images
    scale, offset = (constant(value) for value in normalise)
    return op.add(op.multiply(op.convert(images, np.float32), scale), offset)


def _emit_layers(model, plan, form, images):
    """The node of the network's last layer."""
    nodes, unscaled = {}, {}
    for node in nodes_in_order(model):
        position, layer = node.layer, plan.moved.get(node.layer, node.layer)
        parents = [parent.layer for parent in node.parent_nodes]
        if not parents:
            nodes[position] = images
        elif layer in plan.dropped:
            nodes[position] = nodes[parents[0]]
        elif plan.parts.get(layer) == "both":
            y, scale, offset = one_bit_convolution(
                layer, plan.weights[layer.name], nodes[parents[0]], form
            )
            readers = [plan.moved.get(reader, reader) for reader in plan.readers[position]]
            if activation_name(layer) == "linear" and _only_norm(readers):
                unscaled[position] = y, scale, offset
            else:
                nodes[position] = layers.activate(layer, scaled(y, scale, offset))
        elif parents[0] in unscaled:
            y, scale, offset = unscaled[parents[0]]
            factor, shift = layers.batch_norm_factors(layer, plan.weights[layer.name])
            nodes[position] = scaled(y, scale * factor, offset * factor + shift)
        else:
            inputs = [nodes[parent] for parent in parents]
            part = plan.parts.get(layer)
            nodes[position] = layers.emit(layer, plan.weights[layer.name], inputs, part)
    return nodes[model.outputs[0].node.layer]


def _only_norm(readers):
    return len(readers) == 1 and type(readers[0]) is tf.keras.layers.BatchNormalization
