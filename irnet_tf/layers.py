"""The blocks that networks share.

Layers carry the names of the authors' PyTorch modules (`layer1.0.conv1`), which is what
`irnet_tf.interop` goes by.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import logging

import larq as lq
from larq.utils import register_keras_custom_object
import tensorflow as tf

_ALIASES = ("libra_pb", "ede_sign", "ste_sign", "approx_sign", "swish_sign", "ste_tern",
            "magnitude_aware_sign", "ste_heaviside", "dorefa_quantizer")  # fmt: skip


def hard_tanh(x: tf.Tensor) -> tf.Tensor:
    """`clip(x, -1, 1)`, gradient 1 where `-1 <= x <= 1` and 0 elsewhere. Any shape."""

    @tf.custom_gradient
    def call(x):
        def grad(dy):
            if x.dtype != tf.float32:
                return tf.where(tf.abs(x) <= 1, dy, tf.zeros_like(dy))
            # The same in one pass over memory: two narrow bits have the range -1 to 1 exactly.
            return tf.quantization.fake_quant_with_min_max_args_gradient(
                dy, x, min=-1, max=1, num_bits=2, narrow_range=True
            )

        return tf.clip_by_value(x, -1, 1), grad

    return call(x)


@register_keras_custom_object
class HardTanh(tf.keras.layers.Layer):
    """Hardtanh, the activation of 1-bit networks; see `hard_tanh`. Any shape."""

    def call(self, inputs):
        return hard_tanh(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@register_keras_custom_object
class SymmetricConv2D(lq.layers.QuantConv2D):
    """A quantized convolution padded as in PyTorch: `(kernel_size - 1) // 2` zeros each side.

    With stride 1 this is TensorFlow's `"same"`; with a larger stride `"same"` pads the far
    side more and samples other pixels. The zeros are added behind the input quantizer.
    Larq Compute Engine has no such 1-bit convolution.

    Raises:
        ValueError: if a kernel size is even, or `padding` is given.
    """

    def __init__(self, filters, kernel_size, **kwargs):
        if kwargs.setdefault("padding", "same") != "same":
            raise ValueError("SymmetricConv2D chooses its padding, leave it out")
        super().__init__(filters, kernel_size, **kwargs)
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"symmetric padding needs odd kernel sizes, got {self.kernel_size}")

    def convolution_op(self, inputs, kernel):
        each = [[size // 2, size // 2] for size in self.kernel_size]
        return tf.nn.conv2d(inputs, kernel, self.strides, [[0, 0], *each, [0, 0]])


@register_keras_custom_object
class SymmetricMaxPool2D(tf.keras.layers.MaxPool2D):
    """Max pooling padded as in PyTorch, `pool_size // 2` each side; the padding never wins.

    Raises:
        ValueError: if a pool size is even.
    """

    def __init__(self, pool_size=(3, 3), strides=None, **kwargs):
        kwargs.setdefault("padding", "same")
        super().__init__(pool_size, strides, **kwargs)
        if any(size % 2 == 0 for size in self.pool_size):
            raise ValueError(f"symmetric padding needs odd pool sizes, got {self.pool_size}")

    def call(self, inputs):
        each = [[size // 2, size // 2] for size in self.pool_size]
        return tf.nn.max_pool2d(inputs, self.pool_size, self.strides, [[0, 0], *each, [0, 0]])


@register_keras_custom_object
class OptionAShortcut(tf.keras.layers.Layer):
    """The shortcut without parameters (He et al., 2016, option A) where a stage begins.

    Takes every `strides`-th pixel and puts zero channels on both sides:
    `[batch, height, width, in]` to `[batch, ceil(height / strides), ceil(width / strides),
    filters]`.

    Raises:
        ValueError: if `filters` is fewer than the channels that come in.
    """

    def __init__(self, filters: int, strides: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def build(self, input_shape):
        missing = self.filters - input_shape[-1]
        if missing < 0:
            raise ValueError(f"cannot shrink {input_shape[-1]} channels to {self.filters}")
        self._padding = [[0, 0], [0, 0], [0, 0], [missing // 2, missing - missing // 2]]
        super().build(input_shape)

    def call(self, inputs):
        return tf.pad(inputs[:, :: self.strides, :: self.strides], self._padding)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Makes the layers of one network, given how it is quantized.

    Attributes:
        weight_bits: bits of the binary convolutions' weights, 1 or 32.
        activation_bits: bits of their inputs, 1 or 32.
        padding: `"same"` (TensorFlow's) or `"symmetric"` (PyTorch's); they differ where the
            stride is above 1.
        kernel_quantizer: what makes weights 1-bit; any Larq quantizer. None: Libra-PB.
        input_quantizer: what makes activations 1-bit; any Larq quantizer. None: EDE's sign.
        initializer_mode: `"fan_in"` or `"fan_out"` of the He-normal initialisation.

    Raises:
        ValueError: for values other than these.
    """

    weight_bits: int = 1
    activation_bits: int = 1
    padding: str = "same"
    kernel_quantizer: object = None
    input_quantizer: object = None
    initializer_mode: str = "fan_out"

    def __post_init__(self):
        for name in ("weight_bits", "activation_bits"):
            check_choice(name, getattr(self, name), (1, 32))
        check_choice("padding", self.padding, ("same", "symmetric"))
        for quantizer, bits in (
            ("kernel_quantizer", self.weight_bits),
            ("input_quantizer", self.activation_bits),
        ):
            if bits == 32 and getattr(self, quantizer) is not None:
                kind = "weight_bits" if quantizer == "kernel_quantizer" else "activation_bits"
                raise ValueError(
                    f"{quantizer}={getattr(self, quantizer)!r} has no effect with {kind}=32; "
                    f"leave it out or set {kind}=1"
                )

    def conv(self, x, filters, kernel_size, strides, name):
        """A full-precision convolution without bias."""
        return self._conv(x, filters, kernel_size, strides, name)

    def binary_conv(self, x, filters, strides, name):
        """A 3x3 convolution without bias, its weights and inputs quantized as asked for."""
        quantizers = {}
        if self.weight_bits == 1:
            quantizers["kernel_quantizer"] = _fresh(self.kernel_quantizer or "libra_pb")
        if self.activation_bits == 1:
            quantizers["input_quantizer"] = _fresh(self.input_quantizer or "ede_sign")
        return self._conv(x, filters, 3, strides, name, **quantizers)

    def _conv(self, x, filters, kernel_size, strides, name, **quantizers):
        symmetric = self.padding == "symmetric" and strides > 1 and kernel_size > 1
        kind = SymmetricConv2D if symmetric else lq.layers.QuantConv2D
        # As in PyTorch: not truncated.
        initializer = tf.keras.initializers.VarianceScaling(
            2.0, self.initializer_mode, "untruncated_normal"
        )
        with without_starvation_warning():
            layer = kind(
                filters,
                kernel_size,
                strides=strides,
                padding="same",
                use_bias=False,
                kernel_initializer=initializer,
                name=name,
                **quantizers,
            )
        return layer(x)

    def batch_norm(self, x, name):
        return tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)

    def activation(self, x, name):
        """Hardtanh in front of 1-bit activations, ReLU otherwise."""
        layer = HardTanh if self.activation_bits == 1 else tf.keras.layers.ReLU
        return layer(name=name)(x)

    def max_pool(self, x, pool_size, strides, name):
        symmetric = self.padding == "symmetric" and pool_size % 2
        kind = SymmetricMaxPool2D if symmetric else tf.keras.layers.MaxPool2D
        return kind(pool_size, strides, padding="same", name=name)(x)


def check_choice(name: str, value, choices) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices or isinstance(value, bool):
        allowed = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


def _fresh(identifier):
    """A quantizer of its own for every layer: `t` and metrics are not shared."""
    if isinstance(identifier, str):
        known = tf.keras.utils.get_custom_objects()
        if identifier not in known and not hasattr(lq.quantizers, identifier):
            near = difflib.get_close_matches(identifier, _ALIASES, n=3, cutoff=0.3) or _ALIASES
            raise ValueError(f"unknown quantizer {identifier!r}; did you mean {', '.join(near)}?")
    quantizer = lq.quantizers.get(identifier)
    if isinstance(quantizer, lq.quantizers.Quantizer):
        return type(quantizer).from_config(quantizer.get_config())
    return quantizer


@contextlib.contextmanager
def without_starvation_warning():
    """Larq warns of binary weights without a constraint; standardised ones need none."""
    log = logging.getLogger("larq.layers_base")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def image_input(input_shape, input_tensor):
    """The tensor that a network begins with, and the Keras input behind it.

    Raises:
        ValueError: if `input_shape` is not (height, width, channels).
    """
    shape = tuple(input_shape)
    if len(shape) != 3 or not shape[2] or any(s is not None and s < 1 for s in shape):
        raise ValueError(
            f"input_shape must be (height, width, channels) of positive numbers, got {input_shape}"
        )
    if input_tensor is None:
        x = tf.keras.layers.Input(shape, name="images")
        return x, x
    if not tf.keras.backend.is_keras_tensor(input_tensor):
        x = tf.keras.layers.Input(tensor=input_tensor, name="images")
        return x, x
    return input_tensor, tf.keras.utils.get_source_inputs(input_tensor)


def classifier(x, num_classes, activation, name):
    """A full-precision dense layer; also under mixed precision.

    Raises:
        ValueError: if `num_classes` is not a positive integer.
    """
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes must be a positive integer, got {num_classes!r}")
    x = tf.keras.layers.Dense(
        num_classes,
        activation=activation,
        # PyTorch's default for linear layers: uniform within 1 / sqrt(fan_in).
        kernel_initializer=tf.keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        dtype=tf.keras.backend.floatx(),
        name=name,
    )(x)
    return x
