"""Plan of an export: which convolutions are 1-bit, which layers are dropped, moved or folded.

The plan is made before any file is written and serves every target. `rewrite.rewritten` builds
the planned network.
"""

from __future__ import annotations

import dataclasses

from irnet_tf import _compat
from irnet_tf import layers as blocks
import larq as lq
import numpy as np
import tensorflow as tf

CONVOLUTIONS = (lq.layers.QuantConv2D, blocks.SymmetricConv2D)
"""Layer types that can be 1-bit."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A device format: name for messages, supported types of Keras layers."""

    name: str
    layers: tuple[type, ...]


@dataclasses.dataclass
class Plan:
    """Changes to a network for a target. The network itself is not changed.

    Attributes:
        readers: Layers in execution order, each with the layers that read it.
        weights: Arrays by layer name; quantized kernels are quantized.
        parts: 1-bit part of each layer in `CONVOLUTIONS` by name: `"both"`, `"weights"`, `"inputs"`
            or None.
        moved: Layers that change places, each with the layer whose place it takes.
    """

    name: str
    readers: dict
    weights: dict
    parts: dict
    dropped: list = dataclasses.field(default_factory=list)
    moved: dict = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def binary(self) -> list[str]:
        """Names of the 1-bit convolutions."""
        return [name for name, part in self.parts.items() if part == "both"]

    @property
    def packable(self) -> int:
        """Number of convolutions with 1-bit weights and float inputs."""
        return list(self.parts.values()).count("weights")

    def kernel(self, name: str) -> np.ndarray:
        """Kernel of a convolution in the exported file."""
        return self.weights[name][0]


def make_plan(model: tf.keras.Model, target: Target) -> Plan:
    """Checks that the target supports the network, and plans the export.

    Raises:
        ValueError: If the network cannot be converted; names the layer and the cure.
    """
    _check_inputs_and_outputs(model)
    readers, parts = _layers_and_readers(model, target), {}
    with lq.context.quantized_scope(True):
        weights = {layer.name: layer.get_weights() for layer in readers}
    for layer in readers:
        require(
            all(np.isfinite(value).all() for value in weights[layer.name]),
            f"layer {layer.name!r} has weights that are not finite; train the network again",
        )
        if isinstance(layer, CONVOLUTIONS):
            parts[layer.name] = _one_bit_part(layer, weights[layer.name][0])
    plan = Plan(model.name, readers, weights, parts)
    if plan.packable:
        plan.notes.append(
            f"{plan.packable} convolutions with 1-bit weights and float inputs are computed in "
            "float; their weights are stored as bits"
        )
    inputs_only = [name for name, part in parts.items() if part == "inputs"]
    if inputs_only:
        plan.notes.append(f"float because their weights are float: {', '.join(inputs_only)}")
    _drop_hardtanh(plan)
    _fold_batch_norms(plan)
    return plan


def require(condition, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def _check_inputs_and_outputs(model):
    require(
        _compat.is_functional(model),
        f"{model.name!r} is not a functional Keras model; build it with tf.keras.Model(inputs, "
        "outputs)",
    )
    require(
        len(model.inputs) == len(model.outputs) == 1,
        f"{model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one of "
        "each is supported",
    )
    shape = model.input_shape
    require(
        len(shape) == 4 and None not in shape[1:],
        f"the input {model.inputs[0].node.layer.name!r} has the shape {shape}; a device needs a "
        "known size: build the network with input_shape=(height, width, channels)",
    )


def _layers_and_readers(model, target) -> dict:
    """Returns the layers in execution order, each with the layers that read it."""
    readers = {}
    for node in _compat.nodes_in_order(model):
        layer = node.layer
        cure = "use the layers of irnet_tf.models, or move it out of the model"
        if isinstance(layer, (blocks.SymmetricConv2D, blocks.SymmetricMaxPool2D)):
            cure = 'build and train the network with padding="same"'
        require(
            type(layer) in target.layers,
            f"layer {layer.name!r} is a {type(layer).__name__}, which {target.name} does not "
            f"support; {cure}",
        )
        norm = isinstance(layer, tf.keras.layers.BatchNormalization)
        require(
            getattr(layer, "data_format", "channels_last") == "channels_last"
            and (not norm or list(layer.axis) == [len(layer.input_shape) - 1]),
            f"layer {layer.name!r} does not have channels last; use data_format='channels_last'",
        )
        require(
            layer not in readers,
            f"layer {layer.name!r} is used more than once; create one layer for each use",
        )
        readers[layer] = []
        for parent in node.parent_nodes:
            readers[parent.layer].append(layer)
    return readers


def _one_bit_part(layer, kernel) -> str | None:
    """Returns the 1-bit part of a convolution: `"both"`, `"weights"`, `"inputs"` or None."""
    weights, inputs = layer.kernel_quantizer is not None, layer.input_quantizer is not None
    if inputs:
        probe = layer.input_quantizer(tf.constant([-2.0, -0.5, 0.0, 0.5, 2.0]))
        require(
            np.array_equal(probe, [-1, -1, 1, 1, 1]),
            f"layer {layer.name!r} has an input quantizer that is not a sign; use ede_sign, "
            "ste_sign or approx_sign",
        )
    if weights:
        require(
            (np.abs(kernel) == np.abs(kernel[:1, :1, :1])).all() and kernel.all(),
            f"layer {layer.name!r} has quantized weights that are not 1-bit (zeros, or several "
            "magnitudes per channel); use libra_pb, ste_sign or magnitude_aware_sign",
        )
    if weights and inputs:
        require(
            layer.groups == 1,
            f"layer {layer.name!r} is a 1-bit convolution with groups={layer.groups}; use groups=1",
        )
        return "both"
    return "weights" if weights else "inputs" if inputs else None


def _drop_hardtanh(plan):
    """Drops each Hardtanh that only signs read, since sign(Hardtanh(x)) = sign(x)."""
    plan.dropped = [
        layer
        for layer, readers in plan.readers.items()
        if type(layer) is blocks.HardTanh
        and readers
        and all(plan.parts.get(reader.name) in ("both", "inputs") for reader in readers)
    ]
    if plan.dropped:
        names = ", ".join(layer.name for layer in plan.dropped)
        plan.notes.append(f"dropped {len(plan.dropped)} Hardtanh that only signs read: {names}")


def _fold_batch_norms(plan):
    """Turns batch norms between a 1-bit convolution and the next one's sign into thresholds.

    A max pooling in front of the batch norm changes places with it, unless the batch norm falls in
    a channel: rising thresholds commute with the maximum.
    """

    def next_of(layer, kind=tf.keras.layers.Layer):
        readers = plan.readers.get(layer, [])
        return readers[0] if len(readers) == 1 and isinstance(readers[0], kind) else None

    folded = []
    for conv in (layer for layer in plan.readers if layer.name in plan.binary):
        pool = next_of(conv, tf.keras.layers.MaxPooling2D)
        norm = next_of(pool or conv, tf.keras.layers.BatchNormalization)
        reader = next_of(norm)
        reader = next_of(reader) if type(reader) is blocks.HardTanh else reader
        linear = not conv.use_bias and conv.activation is tf.keras.activations.linear
        if not (norm and reader and linear and reader.name in plan.binary):
            continue
        weights = _threshold(norm, plan.kernel(conv.name))
        if pool and (weights[0] < 0).any():
            continue
        plan.weights[norm.name] = weights
        folded.append(norm.name)
        if pool:
            plan.moved[pool], plan.moved[norm] = norm, pool
            plan.notes.append(f"moved {norm.name} in front of {pool.name}")
    if folded:
        plan.notes.append(
            f"replaced {len(folded)} batch norms that only signs read by thresholds: "
            f"{', '.join(folded)}"
        )


def _threshold(norm, kernel):
    """Returns gamma, beta, mean and variance of a threshold with the norm's sign.

    A 1-bit convolution yields integers times the magnitude of its weights. The threshold lies
    half-way between the two integers where the norm, computed by TensorFlow, changes sign.
    """
    magnitude = np.abs(kernel[0, 0, 0]).astype(np.float32)
    most = int(np.prod(kernel.shape[:3]))
    sums = np.arange(-most, most + 1, dtype=np.float32)[:, None, None, None] * magnitude
    mean, variance = (np.asarray(v, np.float32) for v in (norm.moving_mean, norm.moving_variance))
    gamma = np.asarray(norm.gamma, np.float32) if norm.scale else np.ones_like(mean)
    beta = np.asarray(norm.beta, np.float32) if norm.center else np.zeros_like(mean)
    values, *_ = tf.compat.v1.nn.fused_batch_norm(
        sums, gamma, beta, mean, variance, norm.epsilon, is_training=False
    )
    positive = values.numpy()[:, 0, 0] >= 0
    falls = positive[0] & ~positive[-1]
    threshold = (positive == falls).sum(0) - most - 0.5
    ones = np.ones_like(magnitude)
    mean = (magnitude * threshold).astype(np.float32)
    return [np.where(falls, -ones, ones), 0 * ones, mean, ones]
