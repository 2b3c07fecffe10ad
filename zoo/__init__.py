"""The networks of IR-Net: builder, recipe, results and weights of each, as data.

import zoo
model = zoo.load("digits/resnet20_bireal_1w1a")
"""

from zoo import cifar10, digits, imagenet
from zoo.registry import Entry, info, list_models, load

__all__ = ["Entry", "cifar10", "digits", "imagenet", "info", "list_models", "load"]
