"""Private parts of Larq, Keras and Larq Compute Engine; no other module uses private names."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import functools
import logging
import os

from larq import context as larq_context
from larq import layers_base as larq_layers
from larq.quantizers import _BaseQuantizer as LarqQuantizer  # noqa: F401, Larq's metrics need it
import tensorflow as tf
from tensorflow.python.eager import context as tensorflow_context
from tensorflow.python.framework import config as tensorflow_config
from tf_keras.src import backend as keras_backend
from tf_keras.src.engine import base_layer_utils as keras_layer_utils
from tf_keras.src.engine.functional import Functional as Functional
from tf_keras.src.mixed_precision import autocast_variable as keras_autocast

_larqs_quantized_scope = larq_context.quantized_scope


@contextlib.contextmanager
def _quantized_scope(quantize):
    before = larq_context.should_quantize()
    try:
        with _larqs_quantized_scope(quantize):
            yield quantize
    finally:
        larq_context._quantized_scope.should_quantize = before


# Larq's scope does not end if a layer raises an error. Latent weights read after that, to save
# them for example, would be binary.
larq_context.quantized_scope = _quantized_scope


# Larq uses it only for a warning: binary weights without a constraint can leave the range of a
# straight-through gradient and never change again.
_larqs_is_binary = larq_layers._is_binary
larq_layers._is_binary = lambda quantizer: (
    _larqs_is_binary(quantizer) and not getattr(quantizer, "unbounded_gradient", False)
)


# Larq warns at each layer. Each message is logged once.
_seen: set[str] = set()
logging.getLogger(larq_layers.__name__).addFilter(
    lambda record: not (record.msg in _seen or _seen.add(record.msg))
)


def is_functional(model) -> bool:
    """Returns True for a functional or sequential Keras model."""
    return getattr(model, "_is_graph_network", False)


def layer_being_called() -> tf.keras.layers.Layer | None:
    """Returns the innermost Keras layer whose `call` is running in this thread."""
    return keras_layer_utils.call_context().layer


def variables_as_they_are():
    """Context in which a layer in mixed precision reads variables in their own type."""
    return keras_autocast.enable_auto_cast_variables(None)


def copy_metrics(quantizer, other):
    """Gives the quantizer the metric names of another one and returns it."""
    quantizer._custom_metrics = getattr(other, "_custom_metrics", None)
    return quantizer


@contextlib.contextmanager
def layers_from_zero():
    """Context in which Keras numbers layers without a name (`conv2d_1`) from zero."""
    numbers, graph = keras_backend.PER_GRAPH_OBJECT_NAME_UIDS, tf.compat.v1.get_default_graph()
    before = numbers.pop(graph, None)
    try:
        yield
    finally:
        inside = numbers.pop(graph, {})
        if before is not None:  # layers made later may be combined with either
            for kind, number in inside.items():
                before[kind] = max(before[kind], number)
            numbers[graph] = before


def rename(model, name: str):
    """Renames a model and returns it."""
    model._name = name
    return model


def nodes_in_order(model):
    """Yields the model's nodes (`node.layer`, `node.parent_nodes`) in topological order."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def tflite_schema():
    """Returns Larq Compute Engine's classes of the TFLite format."""
    from larq_compute_engine.mlir.python import tflite_schema

    return tflite_schema


def parse_tflite(file: bytes):
    """Returns a TFLite file as an object tree of `tflite_schema`."""
    schema = tflite_schema()
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(file, 0))


def serialise_tflite(model) -> bytes:
    """Returns the TFLite file of an object tree."""
    from larq_compute_engine.mlir.python import util

    return util._convert_model_from_object_to_bytearray(model)


def lce_interpreter(file: bytes, threads: int = 1):
    """Returns Larq Compute Engine's interpreter for a TFLite file."""
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    return Interpreter(file, num_threads=threads)


@contextlib.contextmanager
def keeping_seeds_and_determinism():
    """Restores seeds and determinism on exit. TensorFlow's public API can set them only."""
    keras = keras_backend._SEED_GENERATOR
    generator = getattr(keras, "generator", None)
    seed = tensorflow_context.global_seed()
    determinism = tensorflow_config.is_op_determinism_enabled()
    try:
        yield
    finally:
        tensorflow_context.set_global_seed(seed)
        if not determinism:
            tensorflow_config.disable_op_determinism()
        if generator is not None:
            keras.generator = generator
        elif hasattr(keras, "generator"):
            del keras.generator


class SlurmResolver(tf.distribute.cluster_resolver.SlurmClusterResolver):
    """TensorFlow's resolver, which sorts hosts by name (n10 before n9); Slurm does by number."""

    def _resolve_own_rank(self):
        host, local = os.environ.get("SLURMD_NODENAME"), os.environ.get("SLURM_LOCALID")
        tasks = self._resolve_task_configuration()
        if host not in tasks or local is None:
            return super()._resolve_own_rank()
        return sum(n for other, n in tasks.items() if other < host) + int(local)

    def num_accelerators(self, task_type=None, task_id=None, config_proto=None):
        return {"GPU": len(tf.config.list_physical_devices("GPU"))}


def fused_on_cpu(*dtypes: tf.DType) -> Callable:
    """Decorates an elementwise function, which XLA then compiles on a CPU.

    TensorFlow's CPU kernels pass over memory once per operation, and are slow for bfloat16. Whole
    steps are not compiled on a CPU, because XLA's convolutions are slow there.

    Args:
        *dtypes: Types of the first argument for which the function is compiled; none: all.
    """

    def decorate(function):
        compiled = tf.function(function, jit_compile=True)

        @functools.wraps(function)
        def call(x, *others):
            # tf.test.is_gpu_available would initialise the devices.
            selected = not dtypes or x.dtype in dtypes
            if selected and not tf.config.list_physical_devices("GPU"):
                return compiled(x, *others)
            return function(x, *others)

        return call

    return decorate
