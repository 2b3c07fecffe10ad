"""Models for one device or several: making them, and their batch norms.

Each device has its own statistics, as the authors had it, or all have the same.
"""

from __future__ import annotations

from collections.abc import Callable

from irnet_tf._compat import layers_from_zero
from irnet_tf.model_config import get_model_config, set_model_config
from irnet_tf.weights import remember_alike
import tensorflow as tf


def made(
    model: tf.keras.Model | Callable[[], tf.keras.Model], strategy: tf.distribute.Strategy
) -> tf.keras.Model:
    """The model, or what the function makes.

    Raises:
        ValueError: if the model was made for other devices, or in another precision than Keras
            has now.
    """
    if not isinstance(model, tf.keras.Model):
        try:
            with layers_from_zero():
                return model()
        except ValueError as error:
            if "times in the model" not in str(error):
                raise
            return model()  # it builds on layers that were there before, and numbered
    if not all(strategy.extended.variable_created_in_scope(v) for v in model.variables):
        raise ValueError(
            f"{model.name!r} was not made in the scope of the strategy, {type(strategy).__name__}: "
            "give a function that makes it, or make it under strategy.scope()"
        )
    wanted = tf.keras.mixed_precision.global_policy().compute_dtype
    found = next(layer.compute_dtype for layer in model.layers if layer.weights)
    if found != wanted:
        raise ValueError(
            f"{model.name!r} computes in {found}, the recipe says {wanted}: give a function that "
            "makes it"
        )
    return model


def make_average_statistics(model: tf.keras.Model) -> Callable[[], None]:
    """A function that gives all replicas the mean of their moving means and variances."""
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return lambda: None
    own = [
        variable
        for variable in model.non_trainable_variables
        if variable.synchronization == tf.VariableSynchronization.ON_READ
    ]

    @tf.function
    def average_statistics():
        for variable in own:
            variable.assign(variable.read_value())

    return average_statistics


def synchronise_batch_norm(model: tf.keras.Model) -> tf.keras.Model:
    """The same network, whose batch norm takes its statistics over all replicas in training."""

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            config["synchronized"] = True
        return type(layer).from_config(config)

    synchronised = tf.keras.models.clone_model(model, clone_function=clone)
    synchronised.set_weights(model.get_weights())
    description = get_model_config(model)
    if description:
        set_model_config(synchronised, description)
        remember_alike(synchronised, model)
    return synchronised
