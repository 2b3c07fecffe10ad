"""Which devices share the work; TensorFlow's own strategies do it."""

from __future__ import annotations

import os

from irnet_tf.layers import check_choice
import tensorflow as tf

STRATEGIES = ("auto", "default", "mirrored")


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy of a name. Call it before any other use of TensorFlow.

    Args:
        name: `"default"` (one device), `"mirrored"` (all GPUs of this machine), or `"auto"`:
            mirrored where there are several GPUs, else default.

    Raises:
        ValueError: if the name is none of these, or `TF_CONFIG` describes a cluster.
    """
    check_choice("strategy", name, STRATEGIES)
    if "TF_CONFIG" in os.environ:
        raise ValueError(
            "TF_CONFIG describes a cluster, but training on several hosts is not supported yet; "
            "unset TF_CONFIG to train on this one"
        )
    if name == "auto":
        several = len(tf.config.list_physical_devices("GPU")) > 1
        name = "mirrored" if several else "default"
    return tf.distribute.MirroredStrategy() if name == "mirrored" else tf.distribute.get_strategy()
