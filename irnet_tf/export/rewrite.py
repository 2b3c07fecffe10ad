"""Copies of a network: as a plan has it, as it is, and its full-precision twin."""

from __future__ import annotations

from irnet_tf.export.plan import CONVOLUTIONS, Plan
import tensorflow as tf


def copy(model, make=None, weights=None, batch_size=None) -> tf.keras.Model:
    """A float32 copy.

    Args:
        model: which is left as it is.
        make: from a layer and its configuration to its copy; None: the same layer.
        weights: by layer's name; None: the model's.
        batch_size: of the copy; None: any.
    """
    weights = weights or {layer.name: layer.get_weights() for layer in model.layers}
    make = make or (lambda layer, config: type(layer).from_config(config))

    def clone(layer):
        return make(layer, {**layer.get_config(), "dtype": "float32"})

    images = tf.keras.Input(model.input_shape[1:], batch_size, "images", "float32")
    made = tf.keras.models.clone_model(model, images, clone_function=clone)
    for layer in made.layers:
        if layer.weights:
            layer.set_weights(weights[layer.name])
    return made


def rewritten(model: tf.keras.Model, plan: Plan) -> tf.keras.Model:
    """A copy of batch 1 as planned: weights quantized, kernel quantizers gone, signs plain."""

    def make(layer, config):
        if layer in plan.dropped:
            return tf.keras.layers.Activation("linear", name=layer.name, dtype="float32")
        if layer in plan.moved:
            layer = plan.moved[layer]
            config = {**layer.get_config(), "dtype": "float32"}
        if type(layer) is tf.keras.layers.BatchNormalization and len(plan.weights[layer.name]) == 4:
            config.update(scale=True, center=True)
        if layer in plan.parts:
            sign = "ste_sign" if plan.parts[layer] in ("both", "inputs") else None
            config.update(kernel_quantizer=None, input_quantizer=sign)
        return type(layer).from_config(config)

    return copy(model, make, plan.weights, batch_size=1)


def float_twin(model: tf.keras.Model) -> tf.keras.Model:
    """The full-precision twin, with the same layers and latent weights, of batch 1."""

    def make(layer, config):
        if isinstance(layer, CONVOLUTIONS):
            config.update(kernel_quantizer=None, input_quantizer=None)
        return type(layer).from_config(config)

    return copy(model, make, batch_size=1)


def trace(model, normalise=None):
    """(holder of the variables, concrete function) of batch 1; `normalise` as of `inputs`."""

    def call(images):
        x = images
        if normalise:
            x = tf.cast(x, tf.float32) * normalise[0] + normalise[1]
        return model(x, training=False)

    module = tf.Module()
    module.variables_ = model.variables
    dtype = tf.uint8 if normalise else tf.float32
    spec = tf.TensorSpec((1, *model.input_shape[1:]), dtype, "images")
    return module, tf.function(call).get_concrete_function(spec)
