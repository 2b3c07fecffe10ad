"""What goes into a network: raw images through its own preprocessing, and a warning if not."""

from __future__ import annotations

import functools
import warnings

from irnet_tf.layers import Preprocess
from irnet_tf.model_config import get_model_config, set_model_config
from irnet_tf.weights import remember_alike
import numpy as np
import tensorflow as tf


def with_preprocessing(model: tf.keras.Model) -> tf.keras.Model:
    """The network behind its own preprocessing.

    Args:
        model: a network whose description has a preprocessing.

    Returns:
        A Keras model that takes images of any size, uint8 or 0 to 255, `[batch, height, width,
        3]`. It describes itself as the network does, and its weights file is the network's.

    Raises:
        ValueError: if the model does not say what it expects of an image.
    """
    description = get_model_config(model)
    if description is None or description.preprocessing is None:
        raise ValueError(
            f"{model.name!r} does not say what it expects of an image: attach a description with "
            "its preprocessing (irnet_tf.model_config), or load it from the zoo"
        )
    images = tf.keras.layers.Input((None, None, 3), name="images")
    x = Preprocess(**description.preprocessing.to_dict(), name="preprocessing")(images)
    whole = set_model_config(tf.keras.Model(images, model(x), name=model.name), description)
    remember_alike(whole, model)
    return whole


def warn_of_raw_images(model: tf.keras.Model) -> tf.keras.Model:
    """Let `predict`, `evaluate` and their `_on_batch` warn of images that are not normalised.

    Keras casts uint8 images silently, and a network gives some answer to any numbers. Only
    arrays in memory are looked at; the model computes and saves as before. Returns the model.
    """
    description = get_model_config(model)
    if description is None or description.preprocessing is None:
        return model
    for name in ("predict", "predict_on_batch", "evaluate", "test_on_batch"):
        # Hidden from Keras's tracking: neither saved nor cloned.
        object.__setattr__(model, name, _watched(getattr(model, name), description.preprocessing))
    return model


def _watched(method, preprocessing):
    @functools.wraps(method)
    def call(x=None, *args, **kwargs):
        problem = _problem(x, preprocessing)
        if problem:
            warnings.warn(
                f"{problem}: this network expects normalised images ({preprocessing}). Use "
                "zoo.preprocess_input, zoo.predict, or zoo.load(..., include_preprocessing=True)",
                stacklevel=2,
            )
        return method(x, *args, **kwargs)

    return call


def _problem(x, preprocessing) -> str | None:
    """What shows that images are not normalised, if anything."""
    if isinstance(x, tf.data.Dataset):
        first = tf.nest.flatten(x.element_spec)[0]
        return f"the images are {first.dtype.name}" if first.dtype.is_integer else None
    if not isinstance(x, (np.ndarray, tf.Tensor)) or not np.size(x):
        return None
    if np.issubdtype(x.dtype if isinstance(x, np.ndarray) else x.dtype.as_numpy_dtype, np.integer):
        return f"the images are {getattr(x.dtype, 'name', x.dtype)}"
    low, high = (float(f(x)) for f in (np.min, np.max))
    ends = [(end - m) / s for end in (0, 1) for m, s in zip(preprocessing.mean, preprocessing.std)]
    if low < 2 * min(ends) or high > 2 * max(ends):
        return f"the images have values from {low:g} to {high:g}"
    if 0 <= low < high <= 1:
        return "the images have values between 0 and 1"
    return None
