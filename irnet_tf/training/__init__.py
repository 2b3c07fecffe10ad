"""Training: recipes, `train`, and its parts for `Model.fit`."""

from irnet_tf.training.callbacks import (
    AverageStatistics,
    RunLogger,
    StopOnSignal,
    Stopped,
    TerminateOnNaN,
)
from irnet_tf.training.distribute import (
    WorkerLost,
    is_chief,
    make_strategy,
    on_all_workers,
    stop_all_workers,
)
from irnet_tf.training.optimizer import L2SGD, compile_model
from irnet_tf.training.recipe import Recipe
from irnet_tf.training.run_dir import Checkpoints
from irnet_tf.training.train import global_state, train, training_batches

__all__ = [
    "AverageStatistics",
    "Checkpoints",
    "L2SGD",
    "Recipe",
    "RunLogger",
    "StopOnSignal",
    "Stopped",
    "TerminateOnNaN",
    "WorkerLost",
    "compile_model",
    "global_state",
    "is_chief",
    "make_strategy",
    "on_all_workers",
    "stop_all_workers",
    "train",
    "training_batches",
]
