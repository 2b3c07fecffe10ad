"""Recipes, strategies, and the run itself: fit, resume, outputs."""

from irnet_tf.training.recipe import Recipe
from irnet_tf.training.run import Stopped, evaluate, train
from irnet_tf.training.strategy import make_strategy

__all__ = ["Recipe", "Stopped", "evaluate", "make_strategy", "train"]
