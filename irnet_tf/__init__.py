"""IR-Net: accurate binary neural networks in TensorFlow, Keras and Larq.

Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural
Networks", CVPR 2020, https://arxiv.org/abs/1909.10788.

Importing this package selects Keras 2 (`TF_USE_LEGACY_KERAS=1`), which Larq needs, and registers
the quantizers `"libra_pb"` and `"ede_sign"`. It creates no variable and no tensor, so a
distribution strategy can be created afterwards. Submodules are imported on first use.
"""

import contextlib
import importlib
import os
import sys


@contextlib.contextmanager
def _quiet():
    """Discards C++ messages if `TF_CPP_MIN_LOG_LEVEL` is 3, as this project's commands set it."""
    if sys.argv[:1] == ["-m"]:  # Python is looking for the module of `python -m zoo`
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        yield
        return
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


_imported_before = "tensorflow" in sys.modules
if not _imported_before:
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

with _quiet():
    import tensorflow as tf

if not tf.keras.Model.__module__.startswith("tf_keras."):
    raise ImportError(
        "irnet_tf needs Keras 2, but tf.keras is Keras 3"
        + (" because tensorflow was imported first. " if _imported_before else ". ")
        + "Import irnet_tf before tensorflow and set TF_USE_LEGACY_KERAS=1 or leave it unset "
        "(in a notebook, restart the kernel first)."
    )

from irnet_tf.ede import EDECallback, EDESchedule, set_ede  # noqa: E402
from irnet_tf.layers import HardTanh  # noqa: E402
from irnet_tf.quantizers import EDESign, LibraPB, ede_sign, libra_pb  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "EDECallback",
    "EDESchedule",
    "EDESign",
    "HardTanh",
    "LibraPB",
    "ede_sign",
    "libra_pb",
    "set_ede",
]

_SUBMODULES = (
    "ablation", "analysis", "compare", "data", "evaluation", "export", "model_config", "models",
    "plotting", "preprocessing", "pytorch", "training", "weights",
)  # fmt: skip


def __getattr__(name):
    if name in _SUBMODULES:
        return importlib.import_module(f"irnet_tf.{name}")
    raise AttributeError(f"module 'irnet_tf' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_SUBMODULES})
