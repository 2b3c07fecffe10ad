"""EDE, the error decay estimator: the schedule of its slope `t`."""

from __future__ import annotations

import dataclasses

from irnet_tf.quantizers import _EDEQuantizer
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class EDESchedule:
    """`t(progress) = t_min * (t_max / t_min)**progress` (section 3.3, equation 12).

    Attributes:
        t_min: Slope at the start of training, above 0; 1e-1 in the paper.
        t_max: Slope at the end, at least `t_min`; 1e1 in the paper.
    """

    t_min: float = 1e-1
    t_max: float = 1e1

    def __post_init__(self):
        if not 0 < self.t_min <= self.t_max:
            raise ValueError(
                f"EDE needs 0 < t_min <= t_max, got t_min={self.t_min}, t_max={self.t_max}"
            )

    def __call__(self, progress: float) -> float:
        """Returns `t` at a fraction `progress` of training, between 0 and 1."""
        return self.t_min * (self.t_max / self.t_min) ** progress


def set_ede(model: tf.Module, t: float) -> None:
    """Sets the slope of every Libra-PB and EDE-sign quantizer in a model, layer or quantizer.

    Raises:
        ValueError: If `t` is not above 0.
    """
    if not t > 0:
        raise ValueError(f"t, the slope of EDE, must be above 0, got {t}")
    for module in (model, *model.submodules):
        if isinstance(module, _EDEQuantizer):
            module.t.assign(t)


class EDECallback(tf.keras.callbacks.Callback):
    """Sets `t` at the start of each epoch in `Model.fit`.

    `t` depends on the epoch's number, so `fit` with `initial_epoch` continues the schedule. Put the
    callback before those that write the logs: it adds `ede_t` and `ede_k` at the end of an epoch.

    Args:
        epochs: Number of epochs of the whole run, above 0. None: the `epochs` of `fit`.
        schedule: Schedule of `t`. None: the paper's.
    """

    def __init__(self, epochs: int | None = None, schedule: EDESchedule | None = None):
        super().__init__()
        if epochs is not None and not epochs > 0:
            raise ValueError(f"epochs must be above 0, got {epochs}")
        self.epochs = epochs
        self.schedule = schedule or EDESchedule()
        self._t = self.schedule(0.0)

    def on_epoch_begin(self, epoch, logs=None):
        self._t = self.schedule(epoch / (self.epochs or self.params["epochs"]))
        set_ede(self.model, self._t)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["ede_t"] = self._t
            logs["ede_k"] = max(1 / self._t, 1.0)
