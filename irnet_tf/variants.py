"""Quantizers that only ablations use: the method with a part of it left out."""

from __future__ import annotations

from irnet_tf.quantizers import _at_least_float32, _EDEQuantizer, sign_times_scale
from larq.utils import register_alias, register_keras_custom_object
import tensorflow as tf


def balanced_sign(w, t=1.0) -> tf.Tensor:
    r"""Libra-PB without standardisation.

    Per output channel:

        w_hat = w - mean(w)                     balanced
        s     = round(log2(mean(|w_hat|)))      no gradient flows through s
        Q(w)  = sign(w_hat) * 2**s              sign with EDE's gradient

    Args:
        w: float kernel of known shape whose last axis indexes the output channels.
        t: sharpness of EDE's estimator, a positive scalar.

    Returns:
        Tensor of `w`'s shape and type. A channel whose weights are all equal becomes `+1`.
    """
    w = tf.convert_to_tensor(w)
    axes = list(range(w.shape.rank - 1))
    z = _at_least_float32(w)
    w_hat = z - tf.reduce_mean(z, axes, keepdims=True)
    return tf.cast(sign_times_scale(w_hat, t, axes), w.dtype)


@register_alias("balanced_sign")
@register_keras_custom_object
class BalancedSign(_EDEQuantizer):
    """Libra-PB without standardisation as a Larq kernel quantizer; see `balanced_sign`.

    Args:
        t: EDE's sharpness at first; `set_ede` and `EDECallback` change it.
        metrics: Larq training metrics, such as `["flip_ratio"]`.

    Raises:
        ValueError: if `t` is not a finite number above 0.
    """

    def call(self, inputs):
        outputs = balanced_sign(inputs, self.t)
        super().call(tf.sign(outputs))  # flip_ratio counts bits, not changes of scale
        return outputs
