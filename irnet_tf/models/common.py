"""Layers shared by the builders.

Layers have the names of the authors' PyTorch modules (`layer1.0.conv1`), which `irnet_tf.pytorch`
needs.
"""

from __future__ import annotations

import dataclasses

from irnet_tf._compat import copy_metrics
from irnet_tf._utils import check_choice, nearest
from irnet_tf.layers import HardTanh, SymmetricConv2D, SymmetricMaxPool2D
import larq as lq
import tensorflow as tf

_ALIASES = ("libra_pb", "ede_sign", "ste_sign", "approx_sign", "swish_sign", "ste_tern",
            "magnitude_aware_sign", "ste_heaviside", "dorefa_quantizer")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of a network with given quantization.

    The attributes are arguments of the builders, and the mode of the He-normal initialisation.

    Raises:
        ValueError: If a value is invalid.
    """

    weight_bits: int = 1
    activation_bits: int = 1
    padding: str = "same"
    kernel_quantizer: object = None
    input_quantizer: object = None
    initializer_mode: str = "fan_out"

    def __post_init__(self):
        check_choice("padding", self.padding, ("same", "symmetric"))
        for bits, name in (
            ("weight_bits", "kernel_quantizer"),
            ("activation_bits", "input_quantizer"),
        ):
            check_choice(bits, getattr(self, bits), (1, 32))
            quantizer = getattr(self, name)
            if quantizer is not None and getattr(self, bits) == 32:
                raise ValueError(
                    f"{name}={quantizer!r} has no effect with {bits}=32; leave it out or set "
                    f"{bits}=1"
                )

    def binary_conv(self, x, filters, strides, name):
        """A 3x3 convolution with quantized weights and inputs."""
        quantizers = {}
        if self.weight_bits == 1:
            quantizers["kernel_quantizer"] = fresh_quantizer(self.kernel_quantizer or "libra_pb")
        if self.activation_bits == 1:
            quantizers["input_quantizer"] = fresh_quantizer(self.input_quantizer or "ede_sign")
        return self.conv(x, filters, 3, strides, name, **quantizers)

    def conv(self, x, filters, kernel_size, strides, name, **quantizers):
        """A convolution without bias."""
        symmetric = self.padding == "symmetric" and strides > 1 and kernel_size > 1
        layer = SymmetricConv2D if symmetric else lq.layers.QuantConv2D
        # Not truncated, as in PyTorch.
        initializer = tf.keras.initializers.VarianceScaling(
            2.0, self.initializer_mode, "untruncated_normal"
        )
        return layer(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=initializer,
            name=name,
            **quantizers,
        )(x)

    def batch_norm(self, x, name):
        return tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)

    def activation(self, x, name):
        """Hardtanh before 1-bit activations, else ReLU."""
        layer = HardTanh if self.activation_bits == 1 else tf.keras.layers.ReLU
        return layer(name=name)(x)

    def max_pool(self, x, pool_size, strides, name):
        symmetric = self.padding == "symmetric" and pool_size % 2
        kind = SymmetricMaxPool2D if symmetric else tf.keras.layers.MaxPool2D
        return kind(pool_size, strides, padding="same", name=name)(x)


def fresh_quantizer(identifier):
    """Returns a new quantizer, because layers must not share `t` and metrics."""
    if isinstance(identifier, str):
        known = tf.keras.utils.get_custom_objects()
        if identifier not in known and not hasattr(lq.quantizers, identifier):
            raise ValueError(f"unknown quantizer {identifier!r}; {nearest(identifier, _ALIASES)}")
    quantizer = lq.quantizers.get(identifier)
    if isinstance(quantizer, lq.quantizers.Quantizer):
        return copy_metrics(type(quantizer).from_config(quantizer.get_config()), quantizer)
    return quantizer


def image_input(input_shape, input_tensor):
    """Returns the first tensor of a network and its Keras input."""
    if input_tensor is not None:
        return input_tensor, tf.keras.utils.get_source_inputs(input_tensor)
    x = tf.keras.layers.Input(tuple(input_shape), name="images")
    return x, x


def classifier(x, num_classes, activation, name):
    """A full-precision dense layer, in `floatx` under mixed precision too."""
    return tf.keras.layers.Dense(
        num_classes,
        activation=activation,
        # PyTorch's default for linear layers: uniform within 1 / sqrt(fan_in).
        kernel_initializer=tf.keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        dtype=tf.keras.backend.floatx(),
        name=name,
    )(x)
