"""Quantizers that only ablations use: the method with a part of it left out."""

from __future__ import annotations

from collections.abc import Sequence

from irnet_tf.quantizers import (
    KernelQuantizer,
    _at_least_float32,
    _axes_within_channels,
    sign_times_scale,
)
from larq.utils import register_alias, register_keras_custom_object
import tensorflow as tf


def balanced_sign(w, t=1.0, channel_axes: int | Sequence[int] = 1) -> tf.Tensor:
    r"""Libra-PB without standardisation.

    Per output channel:

        w_hat = w - mean(w)                     balanced
        s     = round(log2(mean(|w_hat|)))      no gradient flows through s
        Q(w)  = sign(w_hat) * 2**s              sign with EDE's gradient

    Args:
        w: float kernel of known shape.
        t: sharpness of EDE's estimator, a positive scalar.
        channel_axes: as of `irnet_tf.libra_pb`.

    Returns:
        Tensor of `w`'s shape and type. A channel whose weights are all equal becomes `+1`.
    """
    w = tf.convert_to_tensor(w)
    axes = _axes_within_channels(w.shape, channel_axes)
    z = _at_least_float32(w)
    w_hat = z - tf.reduce_mean(z, axes, keepdims=True)
    return tf.cast(sign_times_scale(w_hat, t, axes), w.dtype)


@register_alias("balanced_sign")
@register_keras_custom_object
class BalancedSign(KernelQuantizer):
    """Libra-PB without standardisation as a Larq kernel quantizer; see `balanced_sign`.

    Args:
        t: EDE's sharpness at first; `set_ede` and `EDECallback` change it.
        channel_axes: as of `irnet_tf.LibraPB`.
        metrics: Larq training metrics, such as `["flip_ratio"]`.

    Raises:
        ValueError: as `irnet_tf.LibraPB`.
    """

    def call(self, inputs):
        outputs = balanced_sign(inputs, self.t, self._axes())
        super().call(tf.sign(outputs))  # flip_ratio counts bits, not changes of scale
        return outputs
