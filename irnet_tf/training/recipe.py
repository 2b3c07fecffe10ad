"""Training recipes: hyperparameters as data."""

from __future__ import annotations

import dataclasses
import math

from irnet_tf._utils import check_choice
from irnet_tf.data.augment import AUGMENTATIONS
from irnet_tf.ede import EDESchedule
from larq.utils import register_keras_custom_object
import tensorflow as tf

PRECISIONS = (None, "mixed_bfloat16", "mixed_float16")
_POSITIVE, _NOT_NEGATIVE = (1e-37, 1e37), (0, 1e37)  # within float32
_RANGES = {
    "learning_rate": _POSITIVE,
    "classifier_lr_scale": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "warmup_start_lr": _NOT_NEGATIVE,
    "momentum": (0, 1),
    "warmup": (0, 1),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run with SGD.

    Attributes:
        data: Data set, a name for `irnet_tf.data.load`.
        epochs: Passes over the training images.
        batch_size: Global batch size, over all replicas.
        learning_rate: Peak learning rate.
        lr_schedule: `"cosine"` or `"linear"` (to zero), or `"step"` (a tenth at each `decay_at`).
        decay_at: Fractions of the run at which `"step"` divides the learning rate by ten.
        warmup: Fraction of the run over which the learning rate rises linearly.
        warmup_start_lr: Learning rate at the start of the warm-up.
        momentum: SGD momentum.
        nesterov: Nesterov momentum.
        weight_decay: L2 regularisation of every parameter, added to the gradient.
        classifier_lr_scale: Learning rate multiplier of the classifier.
        t_min: EDE's `t` at the start.
        t_max: EDE's `t` at the end.
        mixed_precision: Keras policy, `"mixed_bfloat16"` or `"mixed_float16"`; None: float32.
        augmentation: `"none"`, `"shift"`, `"shift_and_flip"`, `"imagenet"` or
            `"imagenet_without_jitter"`; see `irnet_tf.data.augment`.
        scale_lr_with_batch: Scale the learning rate linearly with the batch size when only the
            batch size is changed (Goyal et al., 2017).

    Raises:
        ValueError: If a value is out of range.
    """

    data: str
    epochs: int
    batch_size: int
    learning_rate: float
    lr_schedule: str = "cosine"
    decay_at: tuple[float, ...] = ()
    warmup: float = 0.0
    warmup_start_lr: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    classifier_lr_scale: float = 1.0
    t_min: float = 1e-1
    t_max: float = 1e1
    mixed_precision: str | None = None
    augmentation: str = "none"
    scale_lr_with_batch: bool = False

    def __post_init__(self):
        check_choice("lr_schedule", self.lr_schedule, ("cosine", "linear", "step"))
        check_choice("augmentation", self.augmentation, AUGMENTATIONS)
        check_choice("mixed_precision", self.mixed_precision, PRECISIONS)
        if not all(0 < fraction < 1 for fraction in self.decay_at):
            raise ValueError(
                f"decay_at must hold fractions of the run between 0 and 1, such as 0.3 for epoch "
                f"30 of 100; got {self.decay_at!r}"
            )
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name, (low, high) in _RANGES.items():
            if not low <= (value := getattr(self, name)) < high:
                raise ValueError(f"{name} must be at least {low:g} and below {high:g}, got {value}")
        self.ede  # noqa: B018, checks t_min and t_max

    def replace(self, **changes) -> Recipe:
        """A copy with changed values; None keeps a value.

        With `scale_lr_with_batch` the learning rate scales with the batch size, and
        `warmup_start_lr` scales with the learning rate. Given values of these two are kept.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        if self.scale_lr_with_batch and "batch_size" in changes:
            factor = changes["batch_size"] / self.batch_size
            changes.setdefault("learning_rate", self.learning_rate * factor)
        if "learning_rate" in changes:
            factor = changes["learning_rate"] / self.learning_rate
            changes.setdefault("warmup_start_lr", self.warmup_start_lr * factor)
        return dataclasses.replace(self, **changes)

    @property
    def ede(self) -> EDESchedule:
        return EDESchedule(self.t_min, self.t_max)

    def finetune(self) -> Recipe:
        """The recipe for fine-tuning a network that this recipe trained."""
        return dataclasses.replace(
            self,
            epochs=30,
            batch_size=16,
            learning_rate=0.01,
            lr_schedule="cosine",
            decay_at=(),
            warmup=0.0,
            warmup_start_lr=0.0,
            classifier_lr_scale=1.0,
            t_min=self.t_max,
            mixed_precision=None,
            scale_lr_with_batch=False,
        )

    def learning_rate_schedule(self, steps_per_epoch: int) -> LearningRateSchedule:
        return LearningRateSchedule(dataclasses.asdict(self), self.epochs * steps_per_epoch)


@register_keras_custom_object
class LearningRateSchedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate of each step.

    Args:
        recipe: Fields of a `Recipe`.
        total_steps: Steps of the whole run.
    """

    def __init__(self, recipe: dict, total_steps: int):
        self.recipe, self.total_steps = recipe, total_steps

    def __call__(self, step):
        progress = tf.cast(step, tf.float32) / self.total_steps
        peak, schedule = self.recipe["learning_rate"], self.recipe["lr_schedule"]
        if schedule == "cosine":
            lr = peak * 0.5 * (1 + tf.cos(math.pi * progress))
        elif schedule == "linear":
            lr = peak * (1 - progress)
        else:
            decay_at = tf.constant(self.recipe["decay_at"], tf.float32)
            lr = peak * 10.0 ** -tf.reduce_sum(tf.cast(progress >= decay_at, tf.float32))
        if not (warmup := self.recipe["warmup"]):
            return lr
        start = self.recipe["warmup_start_lr"]
        return tf.where(progress < warmup, start + (peak - start) * progress / warmup, lr)

    def get_config(self):
        return {"recipe": self.recipe, "total_steps": self.total_steps}
