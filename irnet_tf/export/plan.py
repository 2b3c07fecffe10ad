"""What of a network is 1-bit, and what is folded into what, before any device file is written.

One plan serves every target: it says which convolutions are 1-bit, which layers go, which
change places, and with what weights. `rewrite` makes the network of it that a target converts.
"""

from __future__ import annotations

import dataclasses

from irnet_tf import _compat
from irnet_tf import layers as blocks
from irnet_tf.export import norms
import larq as lq
import numpy as np
import tensorflow as tf

CONVOLUTIONS = (lq.layers.QuantConv2D, blocks.SymmetricConv2D)
"""Layers that may be 1-bit."""


@dataclasses.dataclass(frozen=True)
class Target:
    """What a device format can do.

    Attributes:
        name: for messages.
        layers: types of Keras layers that it converts rightly.
        symmetric_padding: whether it pads alike on both sides at stride 2.
        small_images: whether convolutions of fewer pixels than their kernels span are right.
        activations: names of activation functions that it converts rightly; None: all.
        float_inputs: what becomes of `{}` convolutions with 1-bit weights and float inputs.
    """

    name: str
    layers: tuple[type, ...]
    symmetric_padding: bool
    small_images: bool
    float_inputs: str
    activations: tuple[str, ...] | None = None


@dataclasses.dataclass
class Plan:
    """What is done to a network for a target, which is left as it is.

    Attributes:
        name: the network's.
        readers: from each layer, in the order in which they run, to those that read it.
        weights: by layer's name; those of quantized kernels quantized.
        parts: from each convolution that could be 1-bit to what of it is: `"both"`,
            `"weights"`, `"inputs"` or None.
        dropped: layers that go.
        moved: from a layer to the one whose place it takes.
        negated: from a 1-bit convolution's name to its input channels `[channels]` that have
            the other sign than in the network.
        notes: what was done, one sentence each.
    """

    name: str
    readers: dict
    weights: dict
    parts: dict
    dropped: list = dataclasses.field(default_factory=list)
    moved: dict = dataclasses.field(default_factory=dict)
    negated: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def binary(self) -> list[str]:
        """Names of the 1-bit convolutions."""
        return [layer.name for layer, part in self.parts.items() if part == "both"]

    @property
    def packable(self) -> int:
        """How many convolutions have 1-bit weights and float inputs."""
        return list(self.parts.values()).count("weights")

    def kernel(self, name: str) -> np.ndarray:
        """A convolution's kernel as the file has it."""
        return self.weights[name][0]


def make_plan(model: tf.keras.Model, target: Target) -> Plan:
    """Check that the network can be converted, and say how.

    Raises:
        ValueError: if it cannot; the layer and the cure are named.
    """
    readers, parts = layers_and_readers(model, target), {}
    with lq.context.quantized_scope(True):
        weights = {layer.name: layer.get_weights() for layer in readers}
    for layer in readers:
        require(
            all(np.isfinite(value).all() for value in weights[layer.name]),
            f"layer {layer.name!r} has weights that are not finite; train it anew",
        )
        if isinstance(layer, CONVOLUTIONS):
            parts[layer] = one_bit_part(layer, weights[layer.name][0], target)
    plan = Plan(model.name, readers, weights, parts)
    if plan.packable:
        plan.notes.append(target.float_inputs.format(plan.packable))
    inputs_only = [layer.name for layer, part in parts.items() if part == "inputs"]
    if inputs_only:
        plan.notes.append(f"stay float, as their weights are: {', '.join(inputs_only)}")
    _drop_hardtanh(plan)
    norms.fold(plan)
    return plan


def require(condition, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def layers_and_readers(model, target) -> dict:
    """From each layer, in the order in which they run, to the layers that read it."""
    require(
        _compat.is_functional(model),
        f"{model.name!r} is not a functional Keras model, so that its layers cannot be followed; "
        "build it with tf.keras.Model(inputs, outputs)",
    )
    require(
        len(model.inputs) == len(model.outputs) == 1,
        f"{model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; make a "
        "tf.keras.Model with one of each",
    )
    shape = model.input_shape
    require(
        len(shape) == 4 and None not in shape[1:],
        f"the input {model.inputs[0].node.layer.name!r} has the shape {shape}, but a device needs "
        "[batch, height, width, channels], all but the first known; build the network with "
        "input_shape=(height, width, channels) and load the weights into it",
    )
    readers = {}
    for node in _compat.nodes_in_order(model):
        layer = node.layer
        _check_layer(layer, target)
        require(
            layer not in readers,
            f"layer {layer.name!r} is used more than once; make a layer for every use",
        )
        readers[layer] = []
        for parent in node.parent_nodes:
            readers[parent.layer].append(layer)
    return readers


def _check_layer(layer, target):
    symmetric = isinstance(layer, (blocks.SymmetricConv2D, blocks.SymmetricMaxPool2D))
    require(
        target.symmetric_padding or not symmetric,
        f'layer {layer.name!r} has padding="symmetric", which {target.name} does not have and its '
        'converter gets wrong; build and train the network with padding="same"',
    )
    require(
        type(layer) in target.layers,
        f"layer {layer.name!r} is a {type(layer).__name__}, which is not known to convert "
        "rightly; use layers as in irnet_tf.models, and do what it does outside the model",
    )
    name = activation_name(layer)
    require(
        name is None or target.activations is None or name in target.activations,
        f"layer {layer.name!r} has the activation {name!r}, which is not known to convert rightly; "
        f"use one of {', '.join(target.activations or ())}",
    )
    axis = getattr(layer, "axis", None)
    require(
        getattr(layer, "data_format", "channels_last") == "channels_last"
        and (not isinstance(layer, tf.keras.layers.BatchNormalization) or _last(axis, layer)),
        f"layer {layer.name!r} does not have its channels last; build the network with "
        "data_format='channels_last'",
    )


def activation_name(layer) -> str | None:
    """The name of a layer's activation function; None if it has none."""
    function = getattr(layer, "activation", None)
    return function and getattr(function, "__name__", type(function).__name__)


def _last(axis, layer):
    [axis] = axis if isinstance(axis, (list, tuple)) else [axis]
    return axis in (-1, len(layer.input_shape) - 1)


def one_bit_part(layer, kernel, target) -> str | None:
    """What of a convolution is 1-bit: `"both"`, `"weights"`, `"inputs"` or None."""
    weights, inputs = layer.kernel_quantizer is not None, layer.input_quantizer is not None
    if inputs:
        probe = layer.input_quantizer(tf.constant([-2.0, -0.5, 0.0, 0.5, 2.0]))
        require(
            np.array_equal(probe, [-1, -1, 1, 1, 1]),
            f"layer {layer.name!r} quantizes its input to something other than a sign, which "
            f"{target.name} has no operator for; use ede_sign, ste_sign or approx_sign",
        )
    if weights:
        require(
            (np.abs(kernel) == np.abs(kernel[:1, :1, :1])).all() and kernel.all(),
            f"layer {layer.name!r} has quantized weights of more than one magnitude, or zeros, in "
            "an output channel, which is not 1-bit; use libra_pb, ste_sign or magnitude_aware_sign",
        )
    if weights and inputs:
        require(
            layer.groups == 1,
            f"layer {layer.name!r} is a 1-bit convolution with groups={layer.groups}; use groups=1",
        )
        if not target.small_images:
            check_span(layer, target)
        return "both"
    return "weights" if weights else "inputs" if inputs else None


def check_span(layer, target) -> None:
    """Larq's fast kernels compute the zero padding wrongly if it lies on both sides at once."""
    sides = layer.input_shape[1:3]
    spans = [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation_rate)]
    require(
        layer.padding != "same" or all(side >= span for side, span in zip(sides, spans)),
        f"layer {layer.name!r} gets {sides[0]}x{sides[1]} pixels, fewer than the "
        f"{spans[0]}x{spans[1]} of its kernel, which {target.name} computes wrongly; build "
        "the network with a larger input_shape",
    )


def _drop_hardtanh(plan):
    plan.dropped = [
        layer
        for layer, others in plan.readers.items()
        if type(layer) is blocks.HardTanh
        and others
        and all(plan.parts.get(reader) in ("both", "inputs") for reader in others)
    ]
    if plan.dropped:
        plan.notes.append(
            f"left out {len(plan.dropped)} Hardtanh that only signs read, as sign(Hardtanh(x)) = "
            f"sign(x): {', '.join(layer.name for layer in plan.dropped)}"
        )
