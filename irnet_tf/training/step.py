"""One training step and one pass over the test images, on any strategy."""

from __future__ import annotations

from irnet_tf._compat import without_starvation_warning
from irnet_tf.training.groups import decays_and_rates
import tensorflow as tf


def make_optimizer(recipe, steps_per_epoch: int) -> tf.keras.optimizers.Optimizer:
    return tf.keras.optimizers.SGD(
        recipe.learning_rate_schedule(steps_per_epoch),
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        jit_compile=False,
    )


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Per example; in float32 at least, whatever the network computes in."""
    logits = tf.cast(logits, tf.float32) if logits.dtype.size < 4 else logits
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


class Metrics(tf.Module):
    """Running mean loss and accuracies, over all replicas."""

    def __init__(self):
        super().__init__()
        self.loss = tf.keras.metrics.Mean(name="loss")
        self.accuracy = tf.keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.top5 = tf.keras.metrics.SparseTopKCategoricalAccuracy(
            5, name="top5", dtype="float32"
        )  # TensorFlow's in_top_k knows no other type

    def update(self, labels, logits, losses):
        self.loss.update_state(losses)
        self.accuracy.update_state(labels, logits)
        self.top5.update_state(labels, logits)

    def result(self) -> dict[str, float]:
        """`loss`, `accuracy` and `top5` as fractions, and of how many `images`.

        Raises:
            ValueError: if there were none.
        """
        if not self.loss.count.numpy():
            raise ValueError("not one image could be read; check where they come from")
        means = {
            m.name: float(m.total.numpy()) / float(m.count.numpy())
            for m in (self.loss, self.accuracy, self.top5)
        }
        return {**means, "images": int(self.loss.count.numpy())}

    def reset(self):
        for metric in (self.loss, self.accuracy, self.top5):
            metric.reset_state()


def make_train_step(model, optimizer, metrics, recipe, strategy, jit_compile=False):
    """A function of a distributed iterator that does one step: SGD with L2 decay.

    The decay is `weight_decay * w` added to the gradient of every trainable variable, before
    the momentum.
    """
    variables = model.trainable_variables
    by_name = decays_and_rates(model, recipe)
    groups = [by_name[variable.name] for variable in variables]
    scaled = isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer)

    def differentiate(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = cross_entropy(labels, logits)
            loss = tf.reduce_sum(losses) / recipe.batch_size
            if scaled:  # float16 gradients would vanish otherwise
                loss = optimizer.get_scaled_loss(loss)
        return tape.gradient(loss, variables), (labels, logits, losses)

    def update(gradients):
        if scaled:
            gradients = optimizer.get_unscaled_gradients(gradients)
        gradients = [
            tf.cast(factor, g.dtype) * (g + tf.cast(decay, g.dtype) * w)
            for g, w, (decay, factor) in zip(gradients, variables, groups, strict=True)
        ]
        optimizer.apply_gradients(
            zip(gradients, variables, strict=True), skip_gradients_aggregation=True
        )

    if strategy.num_replicas_in_sync > 1:
        # XLA compiles what one device does; TensorFlow's all-reduce is not among it.
        compiled = tf.function(differentiate, jit_compile=True) if jit_compile else differentiate

        def replica_step(images, labels):
            gradients, outputs = compiled(images, labels)
            context = tf.distribute.get_replica_context()
            update(context.all_reduce(tf.distribute.ReduceOp.SUM, gradients))
            return outputs

    else:

        def replica_step(images, labels):
            gradients, outputs = differentiate(images, labels)
            update(gradients)
            return outputs

        if jit_compile:
            replica_step = tf.function(replica_step, jit_compile=True)

    def step_and_measure(images, labels):
        metrics.update(*replica_step(images, labels))

    @tf.function
    def train_step(iterator):
        strategy.run(step_and_measure, next(iterator))

    return train_step


def synchronise_batch_norm(model: tf.keras.Model) -> tf.keras.Model:
    """The same network, whose batch norm takes its statistics over all replicas in training."""

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            config["synchronized"] = True
        return type(layer).from_config(config)

    with without_starvation_warning():
        synchronised = tf.keras.models.clone_model(model, clone_function=clone)
    synchronised.set_weights(model.get_weights())
    return synchronised


def make_average_statistics(model, strategy):
    """A function that gives all replicas the mean of their moving means and variances.

    Replicas keep their own in training. What is saved is the mean, and so is what is evaluated
    once this was called.
    """
    if strategy.num_replicas_in_sync == 1:
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


def make_evaluate_step(model, metrics, strategy):
    """A function of a distributed batch that adds it to the metrics."""

    def replica_step(images, labels):
        if tf.size(labels) > 0:  # a replica gets nothing when the images run out
            logits = model(images, training=False)
            metrics.update(labels, logits, cross_entropy(labels, logits))

    @tf.function(reduce_retracing=True)
    def evaluate_step(batch):
        strategy.run(replica_step, batch)

    return evaluate_step
