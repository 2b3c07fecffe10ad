"""IR-Net: accurate binary neural networks in TensorFlow, Keras and Larq.

Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural
Networks", CVPR 2020, https://arxiv.org/abs/1909.10788.

Importing this package chooses Keras 2 (`TF_USE_LEGACY_KERAS=1`), which Larq needs, and
registers the quantizers `"libra_pb"` and `"ede_sign"`. It creates no TensorFlow
variable or tensor, so that a distribution strategy can still be made afterwards.
"""

from irnet_tf._chatter import quiet_import
from irnet_tf._keras2 import require_keras_2

with quiet_import():
    require_keras_2()

from irnet_tf.ede import EDECallback, EDESchedule, set_ede  # noqa: E402
import irnet_tf.layers  # noqa: E402, F401, registers what saved models hold
from irnet_tf.quantizers import EDESign, LibraPB, ede_sign, libra_pb  # noqa: E402
import irnet_tf.variants  # noqa: E402, F401, registers what ablations name

__version__ = "0.1.0"

__all__ = [
    "EDECallback",
    "EDESchedule",
    "EDESign",
    "LibraPB",
    "ede_sign",
    "libra_pb",
    "set_ede",
]
