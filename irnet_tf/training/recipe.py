"""How a network is trained, as data."""

from __future__ import annotations

import dataclasses
import math

from irnet_tf._utils import check_choice
from irnet_tf.data.augment import AUGMENTATIONS
from irnet_tf.ede import EDESchedule
from larq.utils import register_keras_custom_object
import tensorflow as tf

PRECISIONS = (None, "mixed_bfloat16", "mixed_float16")
_SMALLEST, _LARGEST = 1e-37, 1e37  # of what float32 holds


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one training, with stochastic gradient descent.

    Attributes:
        data: data set, a name for `irnet_tf.data.load`.
        epochs: passes over the training images.
        batch_size: global, over all devices.
        learning_rate: at its highest.
        lr_schedule: `"cosine"`, `"linear"` (both to zero) or `"step"` (a tenth at each `decay_at`).
        decay_at: shares of training at which `"step"` divides the rate by ten.
        warmup: share of training over which the rate rises linearly to `learning_rate`.
        warmup_start_lr: rate at which the warm-up begins.
        momentum: of the gradient.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: L2, added to the gradient of every parameter, as the authors had it.
        binary_weight_decay: of 1-bit kernels; None: `weight_decay`.
        batch_norm_weight_decay: of batch norm's gamma and beta; None: `weight_decay`.
        classifier_lr_scale: what the classifier's learning rate is multiplied by.
        residual_gamma_init: Initial gamma of the batch norms that end a residual branch; see
            `init_residual_gammas`.
        t_min: EDE's sharpness at the beginning.
        t_max: EDE's sharpness towards the end.
        activation_t_min: of activations; None: `t_min`.
        activation_t_max: of activations; None: `t_max`.
        mixed_precision: Keras policy, `"mixed_bfloat16"` or `"mixed_float16"`; None: float32.
        augmentation: `"none"`, `"shift"`, `"shift_and_flip"`, `"imagenet"` or
            `"imagenet_without_jitter"`; see `irnet_tf.data.augment`.
        scale_lr_with_batch: Scale the learning rate with the batch size when only the latter
            is changed (linear scaling, Goyal et al., 2017).

    Raises:
        ValueError: for a value outside its range.
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
    binary_weight_decay: float | None = None
    batch_norm_weight_decay: float | None = None
    classifier_lr_scale: float = 1.0
    residual_gamma_init: float = 1.0
    t_min: float = 1e-1
    t_max: float = 1e1
    activation_t_min: float | None = None
    activation_t_max: float | None = None
    mixed_precision: str | None = None
    augmentation: str = "none"
    scale_lr_with_batch: bool = False

    def __post_init__(self):
        check_choice("lr_schedule", self.lr_schedule, ("cosine", "linear", "step"))
        check_choice("augmentation", self.augmentation, AUGMENTATIONS)
        if not all(0 < share < 1 for share in self.decay_at):
            raise ValueError(
                f"decay_at must hold shares of the training, above 0 and below 1, such as 0.3 for "
                f"epoch 30 of 100; got {self.decay_at!r}"
            )
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in ("learning_rate", "classifier_lr_scale", "residual_gamma_init"):
            _check_range(name, getattr(self, name), _SMALLEST, _LARGEST)
        decays = ("weight_decay", "binary_weight_decay", "batch_norm_weight_decay")
        for name in (*decays, "warmup_start_lr"):
            if getattr(self, name) is not None:
                _check_range(name, getattr(self, name), 0, _LARGEST)
        for name in ("momentum", "warmup"):
            _check_range(name, getattr(self, name), 0, 1)
        check_choice("mixed_precision", self.mixed_precision, PRECISIONS)
        self.ede, self.activation_ede  # noqa: B018, they check

    def replace(self, **changes) -> Recipe:
        """This recipe with some values replaced; what is None is left as it is.

        The learning rate scales with the batch size if `scale_lr_with_batch`, and
        `warmup_start_lr` with the learning rate, unless they are given themselves.
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
        """Of weights."""
        return EDESchedule(self.t_min, self.t_max)

    @property
    def activation_ede(self) -> EDESchedule:
        """Of activations."""
        return EDESchedule(
            self.t_min if self.activation_t_min is None else self.activation_t_min,
            self.t_max if self.activation_t_max is None else self.activation_t_max,
        )

    def learning_rate_schedule(self, steps_per_epoch: int) -> LearningRate:
        return LearningRate(
            total_steps=self.epochs * steps_per_epoch,
            peak=self.learning_rate,
            schedule=self.lr_schedule,
            decay_at=tuple(self.decay_at),
            warmup=self.warmup,
            warmup_start_lr=self.warmup_start_lr,
        )


def _check_range(name, value, low, bound):
    if not low <= value < bound:
        raise ValueError(f"{name} must be at least {low:g} and below {bound:g}, got {value}")


@register_keras_custom_object
class LearningRate(tf.keras.optimizers.schedules.LearningRateSchedule):
    """The rate at a step, as described in `Recipe`; the cosine falls step by step."""

    def __init__(self, total_steps, peak, schedule, decay_at, warmup, warmup_start_lr):
        self.total_steps = total_steps
        self.peak = peak
        self.schedule = schedule
        self.decay_at = decay_at
        self.warmup = warmup
        self.warmup_start_lr = warmup_start_lr

    def __call__(self, step):
        progress = tf.cast(step, tf.float32) / self.total_steps
        if self.schedule == "cosine":
            rate = self.peak * 0.5 * (1 + tf.cos(math.pi * progress))
        elif self.schedule == "linear":
            rate = self.peak * (1 - progress)
        else:
            decays = tf.reduce_sum(tf.cast(progress >= tf.constant(self.decay_at), tf.float32))
            rate = self.peak * 10.0**-decays
        if not self.warmup:
            return rate
        risen = self.warmup_start_lr + (self.peak - self.warmup_start_lr) * progress / self.warmup
        return tf.where(progress < self.warmup, risen, rate)

    def get_config(self):
        return dict(vars(self))
