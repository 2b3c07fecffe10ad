"""What a run changes in the process: seed, precision, determinism, signals; and gives back."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import random
import signal
import threading

from irnet_tf import _compat
import numpy as np
import tensorflow as tf


@contextlib.contextmanager
def global_state(seed: int, mixed_precision: str | None) -> Iterator[None]:
    """Seeds, precision and determinism of a run; within it only.

    Args:
        seed: of Python's, NumPy's, TensorFlow's and Keras's random numbers.
        mixed_precision: a Keras policy such as `"mixed_bfloat16"`; None: that of `floatx`.

    Raises:
        ValueError: if there is no such policy.
    """
    policy = tf.keras.mixed_precision.Policy(mixed_precision or tf.keras.backend.floatx())
    before = tf.keras.mixed_precision.global_policy()
    if before.name == tf.keras.backend.floatx():
        before = None  # follows floatx
    python, numpy = random.getstate(), np.random.get_state()
    with _compat.keeping_seeds_and_determinism():
        try:
            tf.keras.mixed_precision.set_global_policy(policy)
            tf.keras.utils.set_random_seed(seed)
            if not tf.config.list_physical_devices("GPU"):
                tf.config.experimental.enable_op_determinism()  # costs nothing on a CPU
            yield
        finally:
            tf.keras.mixed_precision.set_global_policy(before)
            random.setstate(python)
            np.random.set_state(numpy)


class Signals:
    """Notes SIGTERM (pre-emption) and SIGINT (Ctrl-C), so that the run can save before it stops.

    A second SIGINT stops at once. Works in the main thread only, as signals do.

    Attributes:
        received: the name of the first, or None.
    """

    received: str | None = None

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        if self.received == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
