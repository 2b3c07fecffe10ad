"""The one place that decides which Keras `tf.keras` is."""

import os
import sys


def require_keras_2() -> None:
    """Make `tf.keras` Keras 2, which Larq is written for.

    Raises:
        ImportError: if TensorFlow was imported before, set to use Keras 3.
    """
    late = "tensorflow" in sys.modules
    if not late:
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    chosen = os.environ.get("TF_USE_LEGACY_KERAS")
    if chosen not in ("1", "true", "True"):
        state = "is not set" if chosen is None else f"is {chosen!r}"
        raise ImportError(
            "irnet_tf needs Keras 2, but "
            + ("TensorFlow was imported before it with Keras 3: " if late else "")
            + f"the environment variable TF_USE_LEGACY_KERAS {state}. Import irnet_tf before "
            "tensorflow, or set TF_USE_LEGACY_KERAS=1 before either is imported "
            "(in a notebook: restart the kernel first)."
        )

    import tensorflow as tf

    if not tf.keras.Model.__module__.startswith("tf_keras."):
        raise ImportError(
            "irnet_tf needs Keras 2, but tf.keras is Keras 3: TF_USE_LEGACY_KERAS=1 was set "
            "after TensorFlow had chosen. Import irnet_tf before tensorflow, or set the variable "
            "before either is imported (in a notebook: restart the kernel first)."
        )
