"""Builds and checks the model of a run."""

from __future__ import annotations

from collections.abc import Callable

from irnet_tf._compat import layers_from_zero
from irnet_tf.data import Data
from irnet_tf.weights import packed_size
import tensorflow as tf


def build_model(
    model: tf.keras.Model | Callable[[], tf.keras.Model], strategy: tf.distribute.Strategy
) -> tf.keras.Model:
    """The model, or the model that a function builds.

    Raises:
        ValueError: If a model was built for other devices or in another precision.
    """
    if not isinstance(model, tf.keras.Model):
        try:
            with layers_from_zero():
                return model()
        except ValueError as error:
            if "times in the model" not in str(error):
                raise
            return model()  # it contains layers that were built and numbered before
    if not all(strategy.extended.variable_created_in_scope(v) for v in model.variables):
        raise ValueError(
            f"{model.name!r} was not built in the scope of the strategy "
            f"{type(strategy).__name__}: give a function that builds it"
        )
    wanted = tf.keras.mixed_precision.global_policy().compute_dtype
    found = next(layer.compute_dtype for layer in model.layers if layer.weights)
    if found != wanted:
        raise ValueError(
            f"{model.name!r} computes in {found}, the recipe in {wanted}: give a function that "
            "builds it"
        )
    return model


def synchronise_batch_norm(model: tf.keras.Model) -> tf.keras.Model:
    """A copy whose batch norm uses the statistics of all replicas in training."""

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            config["synchronized"] = True
        return type(layer).from_config(config)

    copy = tf.keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def check_outputs(model: tf.keras.Model, data: Data) -> None:
    """Raises ValueError if the classes differ or a weights file cannot hold the model."""
    packed_size(model)
    if model.output_shape[1:] != (data.num_classes,):
        raise ValueError(
            f"{data.name} has {data.num_classes} classes, the network's output is "
            f"{list(model.output_shape[1:])}: give num_classes={data.num_classes}"
        )
