"""Elementwise functions in one compiled pass over memory, where measurement shows a gain."""

from __future__ import annotations

from collections.abc import Callable
import functools

import tensorflow as tf


def fused_on_cpu(*dtypes: tf.DType) -> Callable:
    """Decorates an elementwise function: on a CPU, XLA compiles it for these types of `x`.

    TensorFlow's CPU kernels walk through memory once an operation, those for bfloat16 slowly.
    Whole steps must not be compiled on a CPU: XLA's convolutions are slow there. On a GPU the
    function is left as it is.

    Args:
        *dtypes: of the first argument, for which compiling is worth it; none: all.
    """

    def decorate(function):
        compiled = tf.function(function, jit_compile=True)

        @functools.wraps(function)
        def call(x, *others):
            # Not tf.test.is_gpu_available, which would initialise the devices.
            worth_it = not dtypes or x.dtype in dtypes
            if worth_it and not tf.config.list_physical_devices("GPU"):
                return compiled(x, *others)
            return function(x, *others)

        return call

    return decorate
