"""The networks of IR-Net: builder, recipe, results and weights of each, as data.

import zoo
model = zoo.load("digits/resnet20_bireal_1w1a")
zoo.predict("digits/resnet20_bireal_1w1a", "image.png")
"""

from zoo import cifar10, digits, imagenet, larq_zoo
from zoo.loading import load
from zoo.predict import decode_predictions, predict, preprocess_input
from zoo.registry import Entry, info, list_models

__all__ = [
    "Entry",
    "cifar10",
    "decode_predictions",
    "digits",
    "imagenet",
    "info",
    "larq_zoo",
    "list_models",
    "load",
    "predict",
    "preprocess_input",
]
