"""EDE, the error decay estimator: how its sharpness `t` grows over training."""

from __future__ import annotations

import dataclasses

from irnet_tf.quantizers import EDESign, _EDEQuantizer
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class EDESchedule:
    """`t(progress) = t_min * (t_max / t_min)**progress` (section 3.3, equation 12).

    Attributes:
        t_min: sharpness at the beginning of training; above 0. The paper has 1e-1.
        t_max: sharpness towards the end; at least `t_min`. The paper has 1e1.

    Raises:
        ValueError: if not `0 < t_min <= t_max`.
    """

    t_min: float = 1e-1
    t_max: float = 1e1

    def __post_init__(self):
        if not 0 < self.t_min <= self.t_max:
            raise ValueError(
                f"EDE needs 0 < t_min <= t_max, got t_min={self.t_min}, t_max={self.t_max}"
            )

    def __call__(self, progress: float) -> float:
        """The sharpness `t` after a share `progress` of training, between 0 and 1."""
        return self.t_min * (self.t_max / self.t_min) ** progress


def ede_k(t: float) -> float:
    """EDE's `k = max(1 / t, 1)`: the gradient's height over `t`, at least the identity's."""
    return max(1 / t, 1.0)


def set_ede(model: tf.Module, t: float, activations: float | None = None) -> None:
    """Set the sharpness of every Libra-PB and EDE-sign quantizer in `model`.

    A model without any, such as a full-precision network, is left as it is.

    Args:
        model: a Keras model, layer or quantizer.
        t: sharpness, above 0.
        activations: of EDE-sign quantizers, if it is to be another than of Libra-PB's.

    Raises:
        ValueError: if a sharpness is not above 0.
    """
    for value in (t, t if activations is None else activations):
        if not value > 0:
            raise ValueError(f"t, the sharpness of EDE, must be above 0, got {value}")
    for module in (model, *model.submodules):
        if isinstance(module, _EDEQuantizer):
            own = activations is not None and isinstance(module, EDESign)
            module.t.assign(activations if own else t)


class EDECallback(tf.keras.callbacks.Callback):
    """Follows an `EDESchedule` in `Model.fit`.

    At the beginning of each epoch `t` is set from the epoch's number alone, so that a
    `fit` resumed with `initial_epoch` goes on where it was. Logs `ede_t` and `ede_k` at
    each epoch's end: put the callback before those that write the logs.

    Args:
        epochs: how many epochs the whole training has, resumed parts included; above 0. None:
            the `epochs` that `fit` is given, which is that number (with `initial_epoch`, too).
        schedule: the sharpness over training; None: the paper's.
        activations: of EDE-sign quantizers, if it is to be another than of Libra-PB's.

    Raises:
        ValueError: if `epochs` is not above 0.
    """

    def __init__(
        self,
        epochs: int | None = None,
        schedule: EDESchedule | None = None,
        activations: EDESchedule | None = None,
    ):
        super().__init__()
        if epochs is not None and not epochs > 0:
            raise ValueError(f"epochs must be above 0, got {epochs}")
        self.epochs = epochs
        self.schedule = schedule or EDESchedule()
        self.activations = activations or self.schedule
        self._t = self.schedule(0.0)

    def on_epoch_begin(self, epoch, logs=None):
        progress = epoch / (self.epochs or self.params["epochs"])
        self._t = self.schedule(progress)
        set_ede(self.model, self._t, self.activations(progress))

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["ede_t"] = self._t
            logs["ede_k"] = ede_k(self._t)
