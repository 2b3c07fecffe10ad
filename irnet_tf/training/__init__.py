"""Recipes, strategies, and the run itself: fit, resume, outputs."""

from irnet_tf.training.recipe import Recipe
from irnet_tf.training.run import Stopped, evaluate, train
from irnet_tf.training.strategy import WorkerLost, Workers, make_strategy

__all__ = [
    "Recipe",
    "Stopped",
    "WorkerLost",
    "Workers",
    "evaluate",
    "make_strategy",
    "train",
]
