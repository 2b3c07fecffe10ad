"""Optimizer, loss, metrics and the training step: `compile_model`."""

from __future__ import annotations

from irnet_tf.data import augment
from irnet_tf.model_config import get_model_config, gives_logits
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training.recipe import Recipe
from larq.utils import register_keras_custom_object
import tensorflow as tf


@register_keras_custom_object
class L2SGD(tf.keras.optimizers.SGD):
    """SGD with L2 regularisation: weight decay is added to the gradient, before momentum.

        g = lr_scale * (gradient + l2 * w)
        v = momentum * v - learning_rate * g
        w = w + v                               (Nesterov: w + momentum * v - learning_rate * g)

    Keras's own `weight_decay` is decoupled from the gradient, as in AdamW.

    Args:
        learning_rate: Number or schedule.
        momentum: Momentum, at least 0.
        nesterov: Nesterov momentum.
        l2: Weight decay of every trainable variable.
        lr_scales: Learning rate multipliers by variable name, such as `{"fc/kernel:0": 0.1}`.
        **kwargs: Arguments of `tf.keras.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
        l2=0.0,
        lr_scales=None,
        name="L2SGD",
        **kwargs,
    ):
        super().__init__(learning_rate, momentum, nesterov, name=name, **kwargs)
        self.l2 = l2
        self.lr_scales = dict(lr_scales or {})

    def apply_gradients(
        self, grads_and_vars, name=None, skip_gradients_aggregation=False, **kwargs
    ):
        """Sums the gradients of all replicas, adds weight decay once, and applies them."""
        if not skip_gradients_aggregation:
            grads_and_vars = self.aggregate_gradients(grads_and_vars)
        grads_and_vars = [
            (self.lr_scales.get(v.name, 1.0) * (g + self.l2 * v), v)
            for g, v in grads_and_vars
            if g is not None
        ]
        return super().apply_gradients(
            grads_and_vars, name=name, skip_gradients_aggregation=True, **kwargs
        )

    def get_config(self):
        return {**super().get_config(), "l2": self.l2, "lr_scales": self.lr_scales}


def compile_model(
    model: tf.keras.Model,
    recipe: Recipe,
    steps_per_epoch: int,
    *,
    preprocessing: Preprocessing | None = None,
    jit_compile: bool = False,
    sync_batch_norm: bool = False,
) -> tf.keras.Model:
    """Compiles a model with the recipe's optimizer, cross-entropy, accuracy and top-5 accuracy.

    Its training step takes batches `(images, labels)`, or the batches `((images, numbers), labels)`
    of `irnet_tf.training.training_batches`, whose uint8 images it augments and normalises on the
    device.

    Args:
        model: A classifier that returns logits or probabilities.
        recipe: Hyperparameters.
        steps_per_epoch: Batches per epoch, for the learning rate schedule.
        preprocessing: Normalisation of uint8 images; None: that of the model config.
        jit_compile: Compile the training step with XLA. With several replicas, XLA compiles all
            but the communication between them.
        sync_batch_norm: Batch norm statistics over all replicas; the authors' are per replica.

    Returns:
        The same model.

    Raises:
        ValueError: For `jit_compile` with `sync_batch_norm` on several replicas.
    """
    config = get_model_config(model)
    classifier = config and config.classifier
    scaled = []
    if classifier and recipe.classifier_lr_scale != 1:
        scaled = model.get_layer(classifier).trainable_variables
    several = model.distribute_strategy.num_replicas_in_sync > 1
    if jit_compile and sync_batch_norm and several:
        raise ValueError(
            "XLA cannot compile synchronised batch norm on several replicas: leave out jit_compile "
            "or sync_batch_norm"
        )
    for layer in model.submodules:
        if sync_batch_norm and isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.synchronized, layer.fused = True, False
    with model.distribute_strategy.scope():
        optimizer = L2SGD(
            recipe.learning_rate_schedule(steps_per_epoch),
            recipe.momentum,
            recipe.nesterov,
            recipe.weight_decay,
            lr_scales={v.name: recipe.classifier_lr_scale for v in scaled},
            jit_compile=False,
        )
        model.compile(
            optimizer,
            tf.keras.losses.SparseCategoricalCrossentropy(from_logits=gives_logits(model)),
            metrics=[
                tf.keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                # TensorFlow's in_top_k takes float32 only.
                tf.keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5", dtype="float32"),
            ],
            jit_compile=jit_compile and not several,
        )
    # Metric results are already sums over all replicas; Keras would add them up over workers.
    model.distribute_reduction_method = "first"
    model.train_step = _train_step(
        model,
        recipe.augmentation,
        preprocessing or (config and config.preprocessing),
        compile_gradients=jit_compile and several,
    )
    return model


def _train_step(model, augmentation, preprocessing, compile_gradients):
    """Keras's training step, with augmentation on the device."""

    def gradients_and_outputs(x, y, sample_weight):
        if isinstance(x, (tuple, list)):
            x = augment.finish(*x, augmentation=augmentation, preprocessing=preprocessing)
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = model.compute_loss(x, y, outputs, sample_weight)
        pairs = model.optimizer.compute_gradients(loss, model.trainable_variables, tape)
        return [gradient for gradient, _ in pairs], outputs

    if compile_gradients:
        gradients_and_outputs = tf.function(gradients_and_outputs, jit_compile=True)

    def train_step(batch):
        x, y, sample_weight = tf.keras.utils.unpack_x_y_sample_weight(batch)
        gradients, outputs = gradients_and_outputs(x, y, sample_weight)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return model.compute_metrics(x, y, outputs, sample_weight)

    return train_step
