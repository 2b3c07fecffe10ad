"""Copies of a network for export, and its normalisation and facts."""

from __future__ import annotations

import dataclasses

from irnet_tf.export.plan import CONVOLUTIONS, Plan, require
from irnet_tf.model_config import ModelConfig, get_model_config
import tensorflow as tf


def copy(model, make=None, weights=None, batch_size=None) -> tf.keras.Model:
    """Returns a float32 copy of a model.

    Args:
        model: Keras model. It is not changed.
        make: Function from a layer and its config to the new layer; default: the same layer.
        weights: Arrays by layer name; default: the model's.
        batch_size: Batch size of the copy; None: any.
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
    """Returns the planned network with batch size 1: quantized weights, plain signs."""

    def make(layer, config):
        if layer in plan.dropped:
            return tf.keras.layers.Activation("linear", name=layer.name, dtype="float32")
        if layer in plan.moved:
            layer = plan.moved[layer]
            config = {**layer.get_config(), "dtype": "float32"}
        if type(layer) is tf.keras.layers.BatchNormalization and len(plan.weights[layer.name]) == 4:
            config.update(scale=True, center=True)
        if layer.name in plan.parts:
            sign = "ste_sign" if plan.parts[layer.name] in ("both", "inputs") else None
            config.update(kernel_quantizer=None, input_quantizer=sign)
        return type(layer).from_config(config)

    return copy(model, make, plan.weights, batch_size=1)


def full_precision(model: tf.keras.Model) -> tf.keras.Model:
    """Returns the full-precision counterpart: same layers and latent weights, batch size 1."""

    def make(layer, config):
        if isinstance(layer, CONVOLUTIONS):
            config.update(kernel_quantizer=None, input_quantizer=None)
        return type(layer).from_config(config)

    return copy(model, make, batch_size=1)


def trace(model, normalise=None):
    """Returns (module that holds the variables, concrete function for batch size 1)."""

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


def normalisation(model: tf.keras.Model):
    """Returns the normalisation that a file with `uint8_input` contains.

    Returns:
        Float32 `(scale, offset)`, one value per channel: `x * scale + offset` is the normalised
        image of pixels x from 0 to 255.

    Raises:
        ValueError: If the model config has no preprocessing, or the images are not RGB.
    """
    config = get_model_config(model)
    require(
        config and config.preprocessing and model.input_shape[-1] == 3,
        "uint8_input=True needs RGB images and a normalisation: set a model config with "
        "preprocessing (irnet_tf.model_config.set_model_config)",
    )
    return config.preprocessing.scale_and_offset()


def facts_of(model: tf.keras.Model, uint8_input: bool) -> dict:
    """Returns the facts that are stored in a file for `zoo.runtime`, as JSON types.

    Returns:
        `network` (name), `output` (`"logits"` or `"probabilities"`), `uint8_input`, and if known
        `classes` (names in output order) and `preprocessing` (`size`, `mean`, `std`, `crop`).
    """
    config = get_model_config(model) or ModelConfig("unknown")
    facts = {"network": config.network or model.name, "output": config.output}
    facts["uint8_input"] = uint8_input
    height, width, _ = model.input_shape[1:]
    if config.classes is not None and len(config.classes) == model.output_shape[-1]:
        facts["classes"] = list(config.classes)
    if config.preprocessing is not None and height == width:
        facts["preprocessing"] = dataclasses.replace(config.preprocessing, size=height).to_dict()
    return facts
