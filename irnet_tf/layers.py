"""Keras layers of the networks."""

from __future__ import annotations

from irnet_tf._compat import fused_on_cpu
from irnet_tf.preprocessing import Preprocessing
import larq as lq
from larq.utils import register_keras_custom_object
import tensorflow as tf


def hard_tanh(x: tf.Tensor) -> tf.Tensor:
    """Returns `clip(x, -1, 1)`, with gradient 1 where `-1 <= x <= 1` and 0 elsewhere."""

    @tf.custom_gradient
    def clip(x):
        return _clip(x), lambda dy: mask(x, dy)

    def mask(x, dy):
        # TensorFlow's own gradient of FakeQuantWithMinMaxArgsGradient ignores min and max.
        @tf.custom_gradient
        def call(dy):
            return _clip_gradient(x, dy), lambda ddy: mask(x, ddy)

        return call(dy)

    return clip(x)


@fused_on_cpu(tf.bfloat16)
def _clip(x):
    return tf.clip_by_value(x, -1, 1)


@fused_on_cpu(tf.bfloat16)
def _clip_gradient(x, dy):
    if x.dtype != tf.float32:
        return tf.where(tf.abs(x) <= 1, dy, tf.zeros_like(dy))
    # The same in one pass over memory: two narrow bits have the range -1 to 1.
    return tf.quantization.fake_quant_with_min_max_args_gradient(
        dy, x, min=-1, max=1, num_bits=2, narrow_range=True
    )


@register_keras_custom_object
class HardTanh(tf.keras.layers.Layer):
    """Hardtanh, the activation of 1-bit networks; see `hard_tanh`."""

    def call(self, inputs):
        return hard_tanh(inputs)


@register_keras_custom_object
class SymmetricConv2D(lq.layers.QuantConv2D):
    """A convolution padded as in PyTorch: `dilation * (kernel_size - 1) / 2` zeros on each side.

    With stride 1 this equals TensorFlow's `"same"`. With a larger stride `"same"` pads the far
    side more. The zeros are added after the input quantizer. Larq Compute Engine has no such 1-bit
    convolution.

    Raises:
        ValueError: If a kernel size is even or `padding` is given.
    """

    def __init__(self, filters, kernel_size, **kwargs):
        if kwargs.setdefault("padding", "same") != "same":
            raise ValueError("SymmetricConv2D has a fixed padding; leave out `padding`")
        super().__init__(filters, kernel_size, **kwargs)
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"symmetric padding needs odd kernel sizes, got {self.kernel_size}")

    def convolution_op(self, inputs, kernel):
        each = [[size // 2 * d] * 2 for size, d in zip(self.kernel_size, self.dilation_rate)]
        padding = [[0, 0], *each, [0, 0]]
        return tf.nn.conv2d(inputs, kernel, self.strides, padding, dilations=self.dilation_rate)


@register_keras_custom_object
class SymmetricMaxPool2D(tf.keras.layers.MaxPool2D):
    """Max pooling with odd sizes, padded as in PyTorch: `pool_size // 2` times -inf per side."""

    def call(self, inputs):
        each = [[size // 2, size // 2] for size in self.pool_size]
        return tf.nn.max_pool2d(inputs, self.pool_size, self.strides, [[0, 0], *each, [0, 0]])


@register_keras_custom_object
class OptionAShortcut(tf.keras.layers.Layer):
    """The shortcut without parameters at the start of a stage (He et al., 2016, option A).

    Takes every `strides`-th pixel and adds zero channels on both sides: `[batch, height, width,
    in]` to `[batch, ceil(height / strides), ceil(width / strides), filters >= in]`.
    """

    def __init__(self, filters: int, strides: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def build(self, input_shape):
        missing = self.filters - input_shape[-1]
        self._padding = [[0, 0], [0, 0], [0, 0], [missing // 2, missing - missing // 2]]
        self._fused = fused_on_cpu()(self._subsample_and_pad)
        super().build(input_shape)

    def call(self, inputs, training=None):
        # Compiled in training only, because converters for devices need plain operations.
        return self._fused(inputs) if training else self._subsample_and_pad(inputs)

    def _subsample_and_pad(self, x):
        return tf.pad(x[:, :: self.strides, :: self.strides], self._padding)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


@register_keras_custom_object
class Preprocess(tf.keras.layers.Layer):
    """`irnet_tf.preprocessing.Preprocessing` as a layer; its fields are the arguments."""

    def __init__(self, size, mean, std, crop=1.0, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # bfloat16 cannot hold 0 to 255
        self.preprocessing = Preprocessing(size, mean, std, crop)

    def call(self, inputs):
        return self.preprocessing(inputs)

    def get_config(self):
        return {**super().get_config(), **self.preprocessing.to_dict()}


def takes_raw_images(model: tf.keras.Model) -> bool:
    """Returns True if the model contains a `Preprocess` layer."""
    return any(isinstance(layer, Preprocess) for layer in model.layers)


def check_takes_normalised_images(model: tf.keras.Model) -> None:
    """Raises ValueError if the model contains a `Preprocess` layer."""
    if takes_raw_images(model):
        raise ValueError(
            f"{model.name!r} contains its preprocessing, which would be applied twice: load it "
            "without include_preprocessing, or use the inner network, model.layers[-1]"
        )
