"""Libra-PB and EDE's sign as pure functions and as Larq quantizers.

The functions implement the paper's equations. The classes add a variable `t`, serialization, an
alias for Larq layers and Larq's `flip_ratio` metric. `balanced_sign` is for ablations only.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

from irnet_tf._compat import LarqQuantizer, fused_on_cpu, layer_being_called, variables_as_they_are
import larq as lq
from larq.utils import register_alias, register_keras_custom_object
import numpy as np
import tensorflow as tf


def ede_sign(x, t=1.0) -> tf.Tensor:
    r"""The sign of `x` with EDE's gradient (section 3.3, equations 11 to 13).

    Forward: `+1` where `x >= 0`, else `-1`. A bit has no zero, so `sign(0) = +1`.
    Backward: `dy * k * t * (1 - tanh(t * x)**2)` with `k = max(1 / t, 1)`, the derivative of
    `k * tanh(t * x)`, which is close to `x` for a small `t` and to the sign for a large one.

    Args:
        x: Float tensor of any shape.
        t: Slope of the estimator, a positive scalar (number, tensor or variable).

    Returns:
        Tensor of the shape and type of `x` with elements `+1` and `-1`.
    """
    x = tf.convert_to_tensor(x)
    computed_in = x.dtype if x.dtype.size >= 4 else tf.float32
    # Read here, because Keras cannot export a gradient that captures a variable. tf.cast would
    # round a Python number to float32.
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

    Per output channel with `n` weights:

        w_hat = w - mean(w)                     balanced
        w_std = w_hat / std(w_hat)              standardised; std divides by n - 1
        s     = round(log2(mean(|w_std|)))      no gradient flows through s
        Q(w)  = sign(w_std) * 2**s              sign with EDE's gradient

    Gradients flow through the mean and the standard deviation. A channel with one weight, or with
    weights that are equal up to rounding, becomes `+1` everywhere (`w_std = 0`, `s = 0`), and its
    gradient is that of `sign(w - mean(w))`.

    Args:
        w: Float kernel such as `[height, width, in, out]` or `[in, out]`. Half precision is
            computed in float32.
        t: Slope of EDE's estimator, a positive scalar.
        channel_axes: Output channels: the last n axes, or a tuple of axes. 1 for convolution and
            dense kernels; 2 for depthwise kernels `[height, width, in, multiplier]`; `(2,)` for
            transposed ones `[height, width, out, in]`.

    Returns:
        Tensor of the shape and type of `w`, in each channel with elements `+2**s` and `-2**s`.

    Raises:
        ValueError: If the shape of `w` is unknown, lacks these axes, or has only these.
    """
    w = tf.convert_to_tensor(w)
    axes = _axes_within_channels(w.shape, channel_axes)
    w_std = _balance_and_standardise(_at_least_float32(w), axes)
    return tf.cast(_sign_times_scale(w_std, t, axes), w.dtype)


def balanced_sign(w, t=1.0, channel_axes: int | Sequence[int] = 1) -> tf.Tensor:
    """`libra_pb` without standardisation: equations 7 to 9 with `w_hat` in place of `w_std`."""
    w = tf.convert_to_tensor(w)
    axes = _axes_within_channels(w.shape, channel_axes)
    z = _at_least_float32(w)
    w_hat = z - tf.reduce_mean(z, axes, keepdims=True)
    return tf.cast(_sign_times_scale(w_hat, t, axes), w.dtype)


def _at_least_float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def output_axes(rank: int, channel_axes: int | Sequence[int]) -> list[int]:
    """Returns the axes of the output channels of a kernel with `rank` axes."""
    if isinstance(channel_axes, int):
        channel_axes = range(-channel_axes, 0)
    return sorted({axis + rank if axis < 0 else axis for axis in channel_axes})


def _axes_within_channels(shape, channel_axes) -> list[int]:
    """Returns the axes of the weights of one output channel."""
    channels = output_axes(shape.rank or 0, channel_axes)
    axes = [axis for axis in range(shape.rank or 0) if axis not in channels]
    if not shape.is_fully_defined() or not axes or len(axes) + len(channels) != shape.rank:
        raise ValueError(
            f"a kernel of known shape is needed, with output channels on {channel_axes!r} of its "
            f"axes and weights on others, got shape {shape}"
        )
    return axes


def _balance_and_standardise(w: tf.Tensor, axes) -> tf.Tensor:
    """Equations 5 and 6 with their gradient in closed form, which halves the operations."""
    n = math.prod(w.shape[axis] for axis in axes)
    ddof = n / max(n - 1, 1)
    eps = np.finfo(w.dtype.as_numpy_dtype).eps

    def mean(x):
        return tf.reduce_mean(x, axes, keepdims=True)

    @tf.custom_gradient
    def call(w):
        mu = mean(w)
        w_hat = w - mu
        # The second mean is zero except for rounding; without it equal weights could differ.
        variance = ddof * mean(tf.square(w_hat - mean(w_hat)))
        constant = variance <= tf.square(eps * mu)
        std = tf.where(constant, tf.ones_like(variance), tf.sqrt(variance))
        w_std = tf.where(constant, tf.zeros_like(variance), 1 / std) * w_hat

        def grad(dy):
            return (dy - mean(dy) - w_std * (ddof * mean(dy * w_std))) / std

        return w_std, grad

    return call(w)


def _sign_times_scale(w: tf.Tensor, t, axes) -> tf.Tensor:
    """Equations 7 to 9: the sign of `w` times 2**s, with s from the mean magnitude."""
    magnitude = tf.reduce_mean(tf.abs(w), axes, keepdims=True)
    scale = _nearest_power_of_two(tf.where(magnitude > 0, magnitude, tf.ones_like(magnitude)))
    return ede_sign(w, t) * scale


def _nearest_power_of_two(x: tf.Tensor) -> tf.Tensor:
    """2**round(log2(x)) without a gradient. It is exact, which `tf.pow` need not be."""
    exponent = tf.round(tf.math.log(tf.stop_gradient(x)) / math.log(2.0))
    # In float32, which is exact, because GPUs have no addition of int32.
    bits = tf.cast((tf.cast(exponent, tf.float32) + 127) * 2.0**23, tf.int32)
    return tf.cast(tf.bitcast(bits, tf.float32), x.dtype)


class _EDEQuantizer(LarqQuantizer):
    """A one-bit quantizer with EDE's slope `t` as a variable.

    `t` is float64, so that it is exact in every compute type. Checkpoints hold it; the weights of
    the model do not.
    """

    precision = 1
    unbounded_gradient = True  # _compat turns off Larq's warning about missing constraints

    def __init__(self, t: float = 1.0, **kwargs):
        if not t > 0 or not math.isfinite(t):
            raise ValueError(f"t, the slope of EDE, must be a finite number above 0, got {t}")
        super().__init__(**kwargs)
        self._autocast = False  # float64 in, float64 out, whatever floatx is
        with tf.init_scope():
            first = tf.VariableAggregation.ONLY_FIRST_REPLICA
            self.t = tf.Variable(t, False, dtype=tf.float64, name="t", aggregation=first)

    def get_config(self):
        return {**super().get_config(), "t": float(self.t.numpy())}


class KernelQuantizer(_EDEQuantizer):
    """A one-bit quantizer of kernels; arguments as in `LibraPB`."""

    def __init__(self, t: float = 1.0, channel_axes: int | Sequence[int] | None = None, **kwargs):
        if isinstance(channel_axes, (list, tuple)):
            channel_axes = tuple(channel_axes)
            valid = channel_axes and all(type(axis) is int for axis in channel_axes)
        else:
            valid = channel_axes is None or (type(channel_axes) is int and 0 < channel_axes < 8)
        if not valid:
            raise ValueError(
                "channel_axes must be None, a number of axes at the end or a tuple of axes, see "
                f"libra_pb; got {channel_axes!r}"
            )
        super().__init__(t, **kwargs)
        self.channel_axes = channel_axes
        self._layer_axes = None  # channel_axes of the layer, once it has been called

    def __call__(self, inputs, *args, **kwargs):
        layer = layer_being_called()
        if self.channel_axes is None and layer is not None:
            self._find_axes(layer)
        return super().__call__(inputs, *args, **kwargs)

    def _find_axes(self, layer):
        transposed = (tf.keras.layers.Conv2DTranspose, tf.keras.layers.Conv3DTranspose)
        kernel_axes = (-2,) if isinstance(layer, transposed) else 1
        known = {self._layer_axes} - {None}
        for kernel, axes in (("kernel", kernel_axes), ("depthwise", 2), ("pointwise", 1)):
            if getattr(layer, f"{kernel}_quantizer", None) is self:
                known.add(axes)
        if len(known) > 1:
            raise ValueError(
                f"layer {layer.name!r} shares its quantizer with a kernel that has its output "
                "channels on other axes; use one quantizer per kernel"
            )
        self._layer_axes = next(iter(known), None)

    def _axes(self):
        return self.channel_axes or self._layer_axes or 1

    def output_axes(self, rank: int) -> list[int]:
        """Returns the axes of the output channels of its kernel, which has `rank` axes."""
        return output_axes(rank, self._axes())

    def _count_flips(self, outputs):
        """Updates Larq's `flip_ratio`, which compares signs and cannot read mixed precision."""
        with variables_as_they_are():
            super().call(tf.sign(outputs))
        return outputs

    def get_config(self):
        return {**super().get_config(), "channel_axes": self.channel_axes}


@register_alias("libra_pb")
@register_keras_custom_object
class LibraPB(KernelQuantizer):
    """Libra-PB as a Larq kernel quantizer with the alias `"libra_pb"`; see `libra_pb`.

    Args:
        t: Initial slope of EDE; `set_ede` and `EDECallback` change it.
        channel_axes: Axes of the output channels as in `libra_pb`. None: those of the Larq layer
            (the last two of a depthwise kernel, the last but one of a transposed one, else the
            last); 1 outside of a layer.
        metrics: Larq training metrics, such as `["flip_ratio"]`.

    Raises:
        ValueError: If `t` or `channel_axes` is invalid, or kernels with output channels on
            different axes share the quantizer.
    """

    def call(self, inputs):
        return self._count_flips(libra_pb(inputs, self.t, self._axes()))


@register_alias("balanced_sign")
@register_keras_custom_object
class BalancedSign(KernelQuantizer):
    """`balanced_sign` as a Larq kernel quantizer; arguments as in `LibraPB`."""

    def call(self, inputs):
        return self._count_flips(balanced_sign(inputs, self.t, self._axes()))


@register_alias("ede_sign")
@register_keras_custom_object
class EDESign(_EDEQuantizer):
    """`ede_sign` as a Larq quantizer, alias `"ede_sign"`; `t` and `metrics` as in `LibraPB`."""

    def call(self, inputs):
        return super().call(ede_sign(inputs, self.t))
