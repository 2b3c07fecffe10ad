"""The Keras layers that networks share."""

from __future__ import annotations

from irnet_tf._compat import fused_on_cpu
from irnet_tf.preprocessing import Preprocessing
import larq as lq
from larq.utils import register_keras_custom_object
import tensorflow as tf


def hard_tanh(x: tf.Tensor) -> tf.Tensor:
    """`clip(x, -1, 1)`, gradient 1 where `-1 <= x <= 1` and 0 elsewhere. Any shape."""

    @tf.custom_gradient
    def call(x):
        return _clip(x), lambda dy: _clip_gradient(x, dy)

    return call(x)


@fused_on_cpu(tf.bfloat16)
def _clip(x):
    return tf.clip_by_value(x, -1, 1)


@fused_on_cpu(tf.bfloat16)
def _clip_gradient(x, dy):
    if x.dtype != tf.float32:
        return tf.where(tf.abs(x) <= 1, dy, tf.zeros_like(dy))
    # The same in one pass over memory: two narrow bits have the range -1 to 1 exactly.
    return tf.quantization.fake_quant_with_min_max_args_gradient(
        dy, x, min=-1, max=1, num_bits=2, narrow_range=True
    )


@register_keras_custom_object
class HardTanh(tf.keras.layers.Layer):
    """Hardtanh, the activation of 1-bit networks; see `hard_tanh`. Any shape."""

    def call(self, inputs):
        return hard_tanh(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@register_keras_custom_object
class SymmetricConv2D(lq.layers.QuantConv2D):
    """A convolution padded as in PyTorch: `dilation * (kernel_size - 1) / 2` zeros each side.

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
        each = [[size // 2 * d] * 2 for size, d in zip(self.kernel_size, self.dilation_rate)]
        padding = [[0, 0], *each, [0, 0]]
        return tf.nn.conv2d(inputs, kernel, self.strides, padding, dilations=self.dilation_rate)


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
        self._fused = fused_on_cpu()(self._subsample_and_pad)
        super().build(input_shape)

    def call(self, inputs, training=None):
        # Compiled for training alone: what goes to devices stays what converters know.
        return self._fused(inputs) if training else self._subsample_and_pad(inputs)

    def _subsample_and_pad(self, x):
        return tf.pad(x[:, :: self.strides, :: self.strides], self._padding)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


@register_keras_custom_object
class Preprocess(tf.keras.layers.Layer):
    """From images as they are, `[batch, height, width, 3]`, 0 to 255, to what a network takes.

    Args:
        **preprocessing: the fields of `irnet_tf.preprocessing.Preprocessing`, whose call this is.
    """

    def __init__(self, size, mean, std, crop=1.0, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # bfloat16 has not all of 0 to 255
        self.preprocessing = Preprocessing(size, mean, std, crop)

    def call(self, inputs):
        return self.preprocessing(inputs)

    def get_config(self):
        return {**super().get_config(), **self.preprocessing.to_dict()}


def takes_raw_images(model: tf.keras.Model) -> bool:
    """Whether a network has its preprocessing in front of it."""
    return any(isinstance(layer, Preprocess) for layer in model.layers)


def check_takes_normalised_images(model: tf.keras.Model) -> None:
    """Raises ValueError if a network has its preprocessing in front of it."""
    if takes_raw_images(model):
        raise ValueError(
            f"{model.name!r} has its preprocessing in front of it, and images would get it twice: "
            "load it without include_preprocessing, or give the network behind it, model.layers[-1]"
        )
