"""Batch norm on several devices: each by itself, as the authors had it, or over all of them."""

from __future__ import annotations

from collections.abc import Callable

from irnet_tf.description import attach, describe
import tensorflow as tf


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
    description = describe(model)
    return attach(synchronised, description) if description else synchronised
