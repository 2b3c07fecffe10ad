"""Which devices and hosts share the work; TensorFlow's own strategies do it."""

from __future__ import annotations

import os

from irnet_tf.layers import check_choice
import tensorflow as tf

STRATEGIES = ("auto", "default", "mirrored", "multiworker")


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy of a name. Call it before any other use of TensorFlow.

    Args:
        name: `"default"` (one device), `"mirrored"` (all GPUs of this machine),
            `"multiworker"` (the cluster in `TF_CONFIG`), or `"auto"`: multi-worker where
            `TF_CONFIG` is set, mirrored where there are several GPUs, else default.

    Raises:
        ValueError: if the name is none of these, or `"multiworker"` lacks `TF_CONFIG`.
    """
    check_choice("strategy", name, STRATEGIES)
    cluster = "TF_CONFIG" in os.environ
    if name == "auto":
        several = len(tf.config.list_physical_devices("GPU")) > 1
        name = "multiworker" if cluster else "mirrored" if several else "default"
    if name == "multiworker":
        if not cluster:
            raise ValueError(
                "strategy 'multiworker' needs the environment variable TF_CONFIG, which names "
                "all workers and which of them this is"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()
