"""Which parts of a network a recipe treats differently: binary kernels, batch norms, classifier."""

from __future__ import annotations

import collections

from irnet_tf._compat import nodes_in_order
from irnet_tf.model_config import get_model_config
from irnet_tf.training.recipe import Recipe
from irnet_tf.weights.bits import leaves
import tensorflow as tf


def decays_and_rates(model: tf.keras.Model, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Of every trainable variable, by its name: its weight decay and the factor of its rate.

    A binary kernel is that of a layer with a kernel quantizer. The classifier is what the model's
    description says; without one, none has a rate of its own.
    """
    description = get_model_config(model)
    classifier = description.classifier if description else None
    groups = {v.name: (recipe.weight_decay, 1.0) for v in model.trainable_variables}
    for layer in leaves(model):
        own, factor = None, 1.0
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            own = recipe.batch_norm_weight_decay
        elif getattr(layer, "kernel_quantizer", None) is not None:
            own = recipe.binary_weight_decay
        if layer.name == classifier:
            factor = recipe.classifier_lr_scale
        for variable in layer.trainable_variables:
            decay = recipe.weight_decay if own is None or "bias" in variable.name else own
            groups[variable.name] = decay, factor
    return groups


def init_residual_gammas(model: tf.keras.Model, gamma: float) -> list[str]:
    """Set gamma of the batch norms that end a residual branch. Returns their names.

    Those are what an addition alone reads, but for those behind a 1x1 convolution, which are
    shortcuts. Every block adds a unit-variance batch norm to its shortcut, so that activations
    grow from block to block and many leave Hardtanh's range, where no gradient flows; a smaller
    gamma keeps them inside.
    """
    readers, read = collections.defaultdict(list), {}
    for node in nodes_in_order(model):
        read[node.layer] = [parent.layer for parent in node.parent_nodes]
        for layer in read[node.layer]:
            readers[layer].append(type(node.layer))
    scaled = []
    for norm in read:
        if isinstance(norm, tf.keras.layers.BatchNormalization) and norm.scale:
            shortcut = getattr(read[norm][0], "kernel_size", None) == (1, 1)
            if readers[norm] == [tf.keras.layers.Add] and not shortcut:
                norm.gamma.assign(tf.fill(norm.gamma.shape, tf.cast(gamma, norm.gamma.dtype)))
                scaled.append(norm.name)
    return scaled
