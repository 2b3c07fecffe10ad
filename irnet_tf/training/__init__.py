"""How networks are trained: recipes, the run itself, and its parts for `Model.fit`."""

from irnet_tf.training.callbacks import AverageStatistics, RunLogger
from irnet_tf.training.distribute import make_strategy
from irnet_tf.training.feeding import training_batches
from irnet_tf.training.loop import Stopped, train
from irnet_tf.training.optimizer import L2SGD, compile_model
from irnet_tf.training.recipe import Recipe
from irnet_tf.training.state import global_state
from irnet_tf.training.workers import WorkerLost, Workers, start_again

__all__ = [
    "AverageStatistics",
    "L2SGD",
    "Recipe",
    "RunLogger",
    "Stopped",
    "WorkerLost",
    "Workers",
    "compile_model",
    "global_state",
    "make_strategy",
    "start_again",
    "train",
    "training_batches",
]
