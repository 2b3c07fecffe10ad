"""Libra-PB and EDE's sign, as pure functions and as Larq quantizers.

The functions state the method; the classes give them a variable `t`, serialization, an
alias that any Larq layer understands, and Larq's `flip_ratio` metric.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

from irnet_tf._compat import LarqQuantizer, fused_on_cpu, layer_being_called, variables_as_they_are
import larq as lq
from larq.utils import register_alias, register_keras_custom_object
import numpy as np
import tensorflow as tf


def _at_least_float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def ede_sign(x, t=1.0) -> tf.Tensor:
    r"""The sign of `x`, with EDE's gradient (section 3.3, equations 11 to 13).

    Forward: `+1` where `x >= 0`, else `-1`. A bit has no zero, so `sign(0) = +1`.
    Backward: `dy * k * t * (1 - tanh(t * x)**2)` with `k = max(1 / t, 1)`. A small `t`
    passes gradients through like the identity; a large one approaches the sign itself.

    Args:
        x: float tensor of any shape.
        t: sharpness of the estimator, a positive scalar (number, tensor or variable).

    Returns:
        Tensor of `x`'s shape and type, each element `+1` or `-1`.
    """

    x = tf.convert_to_tensor(x)
    computed_in = x.dtype if x.dtype.size >= 4 else tf.float32
    # Read here: a gradient that captures a variable cannot be exported by Keras. And tf.cast would
    # take a Python number through float32.
    t = tf.cast(t, computed_in) if tf.is_tensor(t) else tf.constant(t, computed_in)

    @tf.custom_gradient
    def sign(x):
        return lq.math.sign(x), lambda dy: _ede_gradient(x, dy, t)

    return sign(x)


@fused_on_cpu(tf.bfloat16)
def _ede_gradient(x: tf.Tensor, dy: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
    """Equation 13 times `dy`; `k * t` is `max(1, t)`."""
    z = _at_least_float32(x)
    # TanhGrad(y, dy) is dy * (1 - y**2) in one pass over memory.
    dx = tf.raw_ops.TanhGrad(y=tf.tanh(t * z), dy=tf.cast(dy, z.dtype))
    return tf.cast(tf.maximum(t, 1.0) * dx, x.dtype)


def libra_pb(w, t=1.0, channel_axes: int | Sequence[int] = 1) -> tf.Tensor:
    r"""Libra parameter binarization of a kernel (section 3.2, equations 5 to 9).

    Per output channel, over its `n` weights:

        w_hat = w - mean(w)                     balanced
        w_std = w_hat / std(w_hat)              standardised; std divides by n - 1
        s     = round(log2(mean(|w_std|)))      no gradient flows through s
        Q(w)  = sign(w_std) * 2**s              sign with EDE's gradient

    Gradients flow through the mean and the standard deviation. A channel whose weights
    are all equal (up to rounding), or that has one weight, carries no information: it
    becomes `+1` everywhere (`w_std = 0`, `s = 0`) and its gradient is that of
    `sign(w - mean(w))`.

    Args:
        w: float kernel, such as `[height, width, in, out]` or `[in, out]`. Half precision is
            computed in float32.
        t: sharpness of EDE's estimator, a positive scalar.
        channel_axes: which axes index the output channels: their numbers, or how many there are
            at the end. 1 for convolution and dense kernels; 2 for Keras's depthwise kernels
            `[height, width, in, multiplier]`; `(2,)` for its transposed ones, `[height, width,
            out, in]`.

    Returns:
        Tensor of `w`'s shape and type; in each channel every element is `+2**s` or
        `-2**s`.

    Raises:
        ValueError: if `w` has an unknown shape, or none but those axes.
    """
    w = tf.convert_to_tensor(w)
    axes = _axes_within_channels(w.shape, channel_axes)
    n = math.prod(w.shape[axis] for axis in axes)
    w_std = _balance_and_standardise(_at_least_float32(w), axes, n)
    return tf.cast(sign_times_scale(w_std, t, axes), w.dtype)


def output_axes(rank: int, channel_axes: int | Sequence[int]) -> list[int]:
    """The axes of output channels of a kernel of `rank` axes; `channel_axes` as of `libra_pb`."""
    if isinstance(channel_axes, int):
        channel_axes = range(-channel_axes, 0)
    return sorted({axis + rank if axis < 0 else axis for axis in channel_axes})


def _axes_within_channels(shape, channel_axes) -> list[int]:
    """The others: those of the weights of one output channel."""
    channels = output_axes(shape.rank or 0, channel_axes)
    axes = [axis for axis in range(shape.rank or 0) if axis not in channels]
    if not shape.is_fully_defined() or not axes or len(axes) + len(channels) != shape.rank:
        raise ValueError(
            f"a kernel of known shape is needed, with output channels on {channel_axes!r} of its "
            f"axes and weights on others, got shape {shape}"
        )
    return axes


def sign_times_scale(w: tf.Tensor, t, axes) -> tf.Tensor:
    """Equations 8 and 9: the sign of `w` times 2**s, s of the mean magnitude over `axes`."""
    magnitude = tf.reduce_mean(tf.abs(w), axes, keepdims=True)
    scale = _nearest_power_of_two(tf.where(magnitude > 0, magnitude, tf.ones_like(magnitude)))
    return ede_sign(w, t) * scale


def _balance_and_standardise(w: tf.Tensor, axes, n: int) -> tf.Tensor:
    """Equations 5 and 6, with their gradient in closed form, which costs half the operations."""
    ddof = n / max(n - 1, 1)
    eps = np.finfo(w.dtype.as_numpy_dtype).eps

    def mean(x):
        return tf.reduce_mean(x, axes, keepdims=True)

    @tf.custom_gradient
    def call(w):
        mu = mean(w)
        w_hat = w - mu
        # The second mean is zero but for rounding; without it equal weights could differ.
        variance = ddof * mean(tf.square(w_hat - mean(w_hat)))
        constant = variance <= tf.square(eps * mu)
        std = tf.where(constant, tf.ones_like(variance), tf.sqrt(variance))
        w_std = tf.where(constant, tf.zeros_like(variance), 1 / std) * w_hat

        def grad(dy):
            return (dy - mean(dy) - w_std * (ddof * mean(dy * w_std))) / std

        return w_std, grad

    return call(w)


def _nearest_power_of_two(x: tf.Tensor) -> tf.Tensor:
    """2**round(log2(x)), without a gradient; exact, which `tf.pow` need not be."""
    exponent = tf.round(tf.math.log(tf.stop_gradient(x)) / math.log(2.0))
    # As floats, exactly: GPUs have no addition of int32, which would send it to the host and back.
    bits = tf.cast((tf.cast(exponent, tf.float32) + 127) * 2.0**23, tf.int32)
    return tf.cast(tf.bitcast(bits, tf.float32), x.dtype)


class _EDEQuantizer(LarqQuantizer):
    """A one-bit quantizer with EDE's sharpness `t` as a variable of its own.

    `t` is float64 so that no precision is lost whatever the network computes in. Like
    the state of Larq's metrics it is saved in checkpoints, and hidden from the weights
    of the model.
    """

    precision = 1
    never_starves = True  # EDE's gradient has no bounds; _compat keeps Larq from warning of them

    def __init__(self, t: float = 1.0, **kwargs):
        if not t > 0 or not math.isfinite(t):
            raise ValueError(f"t, the sharpness of EDE, must be a finite number above 0, got {t}")
        super().__init__(**kwargs)
        self._autocast = False  # float64 in, float64 out, whatever Keras's default is
        with tf.init_scope():
            self.t = tf.Variable(
                t,
                trainable=False,
                dtype=tf.float64,
                name="t",
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

    def get_config(self):
        return {**super().get_config(), "t": float(self.t.numpy())}


_TRANSPOSED = (tf.keras.layers.Conv2DTranspose, tf.keras.layers.Conv3DTranspose)


class KernelQuantizer(_EDEQuantizer):
    """A one-bit quantizer of kernels, which knows where a kernel has its output channels.

    Args:
        t: EDE's sharpness at first.
        channel_axes: None: as the Larq layer has them whose kernel it quantizes; otherwise as of
            `libra_pb`.
        metrics: Larq training metrics.

    Raises:
        ValueError: for other values; and when two layers share the quantizer whose kernels have
            their output channels on different axes.
    """

    def __init__(self, t: float = 1.0, channel_axes: int | Sequence[int] | None = None, **kwargs):
        if channel_axes is not None:
            axes = tuple(np.ravel(channel_axes).tolist())
            counts = isinstance(channel_axes, int)
            if not axes or any(type(axis) is not int or (counts and axis < 1) for axis in axes):
                raise ValueError(
                    "channel_axes must be None (as the layer has them), how many of the last axes "
                    "index output channels (1: convolution and dense kernels, 2: depthwise ones) "
                    f"or a tuple of axes ((2,): transposed convolutions), got {channel_axes!r}"
                )
            channel_axes = channel_axes if counts else axes
        super().__init__(t, **kwargs)
        self.channel_axes = channel_axes
        self._of_layer = None  # channel_axes as the layer has them, once it has been called

    def __call__(self, inputs, *args, **kwargs):
        layer = layer_being_called()
        if self.channel_axes is None and layer is not None:
            self._learn_from(layer)
        return super().__call__(inputs, *args, **kwargs)

    def _learn_from(self, layer):
        last = (-2,) if isinstance(layer, _TRANSPOSED) else 1
        known = {self._of_layer} - {None}
        for kernel, axes in (("kernel", last), ("depthwise", 2), ("pointwise", 1)):
            if getattr(layer, f"{kernel}_quantizer", None) is self:
                known.add(axes)
        if len(known) > 1:
            raise ValueError(
                f"layer {layer.name!r} shares its quantizer with a kernel whose output channels "
                'are on other axes: give each kernel a quantizer of its own, such as "libra_pb"'
            )
        self._of_layer = next(iter(known), None)

    def output_axes(self, rank: int) -> list[int]:
        """The axes of output channels of its kernel, which has `rank` axes."""
        return output_axes(rank, self._axes())

    def _axes(self):
        return self.channel_axes or self._of_layer or 1

    def get_config(self):
        return {**super().get_config(), "channel_axes": self.channel_axes}


@register_alias("libra_pb")
@register_keras_custom_object
class LibraPB(KernelQuantizer):
    """Libra-PB as a Larq kernel quantizer, alias `"libra_pb"`; see `libra_pb`.

    Args:
        t: EDE's sharpness at first; `set_ede` and `EDECallback` change it.
        channel_axes: None: as the Larq layer has them whose kernel it quantizes: a depthwise
            kernel on its last two axes, a transposed one on its last but one, any other on its
            last. Otherwise as of `libra_pb`; outside of a layer None is 1.
        metrics: Larq training metrics, such as `["flip_ratio"]`.

    Raises:
        ValueError: if `t` is not a finite number above 0, or for other `channel_axes`; and when
            two layers share the quantizer whose kernels have their channels on different axes.
    """

    def call(self, inputs):
        outputs = libra_pb(inputs, self.t, self._axes())
        with variables_as_they_are():  # Larq's metrics know no mixed precision
            super().call(tf.sign(outputs))  # flip_ratio counts bits, not changes of scale
        return outputs


@register_alias("ede_sign")
@register_keras_custom_object
class EDESign(_EDEQuantizer):
    """The sign with EDE's gradient as a Larq quantizer, alias `"ede_sign"`; see `ede_sign`.

    Args:
        t: EDE's sharpness at first; `set_ede` and `EDECallback` change it.
        metrics: Larq training metrics, such as `["flip_ratio"]`.

    Raises:
        ValueError: if `t` is not a finite number above 0.
    """

    def call(self, inputs):
        return super().call(ede_sign(inputs, self.t))
