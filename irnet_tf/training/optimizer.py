"""How a model learns: SGD with L2 decay, loss and metrics, put together by `compile`."""

from __future__ import annotations

from irnet_tf.model_config import get_model_config
from irnet_tf.training.groups import decays_and_rates
from larq.utils import register_keras_custom_object
import tensorflow as tf


@register_keras_custom_object
class L2SGD(tf.keras.optimizers.SGD):
    """SGD whose weight decay is L2: part of the gradient, before the momentum.

        g = factor * (gradient + decay * w)
        v = momentum * v - rate * g
        w = w + v                               (Nesterov: w + momentum * v - rate * g)

    Keras's own `weight_decay` is decoupled from the gradient (as in AdamW), which is another
    method. (Not called SGD, for which Keras would load its own.)

    Args:
        learning_rate: number or schedule.
        momentum: at least 0.
        nesterov: whether the momentum is Nesterov's.
        l2: decay of every trainable variable that `decays` does not name.
        decays: of single variables, by their names (`"fc/kernel:0"`).
        rate_factors: what the rate of single variables is multiplied by, by their names.
        **kwargs: Keras's.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
        l2=0.0,
        decays=None,
        rate_factors=None,
        name="SGD",
        **kwargs,
    ):
        super().__init__(learning_rate, momentum, nesterov, name=name, **kwargs)
        self.l2 = l2
        self.decays = dict(decays or {})
        self.rate_factors = dict(rate_factors or {})

    def apply_gradients(
        self, grads_and_vars, name=None, skip_gradients_aggregation=False, **kwargs
    ):
        """Sums the gradients of all replicas, adds the decay once, and applies them."""
        if not skip_gradients_aggregation:
            grads_and_vars = self.aggregate_gradients(grads_and_vars)
        grads_and_vars = [(self._with_decay(g, v), v) for g, v in grads_and_vars]
        return super().apply_gradients(
            grads_and_vars, name=name, skip_gradients_aggregation=True, **kwargs
        )

    def _with_decay(self, gradient, variable):
        decay = self.decays.get(variable.name, self.l2)
        factor = self.rate_factors.get(variable.name, 1.0)
        if gradient is None:
            return None
        if decay:
            gradient = gradient + tf.cast(decay, gradient.dtype) * variable
        return gradient if factor == 1.0 else tf.cast(factor, gradient.dtype) * gradient

    def get_config(self):
        own = {"l2": self.l2, "decays": self.decays, "rate_factors": self.rate_factors}
        return {**super().get_config(), **own}


SGD = L2SGD  # by which `.keras` files of earlier versions name it


@register_keras_custom_object
class CrossEntropy(tf.keras.losses.SparseCategoricalCrossentropy):
    """Cross-entropy of class numbers, in float32 at least, whatever the network computes in."""

    def call(self, y_true, y_pred):
        return super().call(
            y_true, tf.cast(y_pred, tf.float32) if y_pred.dtype.size < 4 else y_pred
        )


def gives_logits(model: tf.keras.Model) -> bool:
    """By the model's description; of a model that has none, by its last layer's activation."""
    description = get_model_config(model)
    if description is not None:
        return description.output == "logits"
    return getattr(model.layers[-1], "activation", None) is not tf.keras.activations.softmax


def compile_model(
    model: tf.keras.Model, recipe, steps_per_epoch: int, *, jit_compile: bool = False
) -> tf.keras.Model:
    """Make a model ready for `fit` and `evaluate`, as `train` trains it.

    That is SGD with the recipe's momentum, decays and rates, cross-entropy of logits or
    probabilities by what the description says, accuracy and top-5 accuracy; with the precision
    that the model was made in (float16's losses are scaled).

    Args:
        model: from images to one number a class.
        recipe: how to train.
        steps_per_epoch: batches in an epoch, which the rate's course depends on.
        jit_compile: whether XLA compiles the step. Of several devices it compiles what each
            does by itself, for it cannot compile what they tell each other.

    Returns:
        The same model.
    """
    groups = decays_and_rates(model, recipe)
    usual = (recipe.weight_decay, 1.0)
    groups = {name: group for name, group in groups.items() if group != usual}
    with model.distribute_strategy.scope():
        optimizer = L2SGD(
            recipe.learning_rate_schedule(steps_per_epoch),
            recipe.momentum,
            recipe.nesterov,
            recipe.weight_decay,
            decays={name: decay for name, (decay, _) in groups.items()},
            rate_factors={name: factor for name, (_, factor) in groups.items()},
            jit_compile=False,
        )
    several = model.distribute_strategy.num_replicas_in_sync > 1
    compile_for_evaluation(
        model, gives_logits(model), optimizer=optimizer, jit_compile=jit_compile and not several
    )
    if several and jit_compile:
        model.train_step = _train_step_of_each_device(model)
    elif "train_step" in vars(model):  # of an earlier compile
        del model.train_step
    return model


def compile_for_evaluation(model, logits: bool, **arguments) -> None:
    """Loss and metrics, which Keras otherwise makes when the first batch comes."""
    strategy = model.distribute_strategy
    # Metrics are of all replicas as they are; Keras would add them up over workers.
    model.distribute_reduction_method = "first"
    with strategy.scope():
        model.compile(
            loss=CrossEntropy(from_logits=logits),
            metrics=[
                tf.keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                # TensorFlow's in_top_k knows no other type.
                tf.keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5", dtype="float32"),
            ],
            **arguments,
        )

    @tf.function
    def meet_one_example():
        strategy.run(meet)

    def meet():
        outputs = tf.ones([1, model.output_shape[-1]], tf.keras.backend.floatx())
        labels = tf.zeros([1], tf.int32)
        model.compute_loss(None, labels, outputs / model.output_shape[-1])
        model.compute_metrics(None, labels, outputs, None)

    meet_one_example()
    model.reset_metrics()


def _train_step_of_each_device(model):
    """The step of `Model`, of which XLA compiles what needs no other device."""

    @tf.function(jit_compile=True)
    def differentiate(images, labels):
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            loss = model.compute_loss(images, labels, outputs)
        gradients = model.optimizer.compute_gradients(loss, model.trainable_variables, tape)
        return [gradient for gradient, _ in gradients], outputs

    def train_step(batch):
        images, labels = batch
        gradients, outputs = differentiate(images, labels)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return model.compute_metrics(images, labels, outputs, None)

    return train_step


def totals(model: tf.keras.Model) -> dict[str, float]:
    """Means over all batches and replicas since the metrics were reset, exactly divided.

    Returns:
        `loss`, `accuracy` and `top5` (fractions), and of how many `images`.

    Raises:
        ValueError: if there were none.
    """
    sums = {
        name: (float(metric.total.numpy()), float(metric.count.numpy()))
        for name, metric in metrics_of(model).items()
    }
    images = sums["accuracy"][1]
    if not images:
        raise ValueError("not one image could be read; check where they come from")
    return {**{name: total / count for name, (total, count) in sums.items()}, "images": int(images)}


def metrics_of(model: tf.keras.Model) -> dict[str, tf.keras.metrics.Metric]:
    """`loss`, `accuracy` and `top5` of a model that `compile` made ready."""
    return {m.name: m for m in model.metrics if m.name in ("loss", "accuracy", "top5")}
