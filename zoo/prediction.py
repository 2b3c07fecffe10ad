"""Classes and probabilities of images."""

from __future__ import annotations

from collections.abc import Iterable
import itertools
import os
from pathlib import Path
import threading
import weakref

from irnet_tf.layers import takes_raw_images
from irnet_tf.model_config import ModelConfig, get_model_config
from irnet_tf.preprocessing import Preprocessing
import numpy as np
import tensorflow as tf
from zoo.images import rgb_batch, rgb_batches
from zoo.loading import find_model_config, load
from zoo.runtime import Runner, likeliest, softmax

_BATCH = 32

_functions = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def predict(
    network: str | os.PathLike | tf.keras.Model,
    images: str | os.PathLike | Iterable | np.ndarray | tf.Tensor,
    top: int | None = 5,
) -> list[list[tuple[str, float]]]:
    """The most probable classes of images. Several threads may call it with one model.

    Images are preprocessed as in the network's evaluation. The EXIF orientation of files is
    applied, and transparent pixels are composited on white.

    Args:
        network: Name in the zoo, path of a weights file or of an exported file (`.xml`,
            `.tflite`), or model with a model config.
        images: Image file, folder of image files, Pillow image, array or tensor of pixels from 0
            to 255 (see `preprocess_input`), or a list of files, Pillow images and arrays.
        top: Number of classes per image; None: all.

    Returns:
        For each image its most probable classes, in descending order, as pairs of class name and
        probability. Classes without names are numbered.

    Raises:
        ValueError: If the network is unknown or has no preprocessing or classifier, or an image
            cannot be read.
        OSError: If a file cannot be read or downloaded.
    """
    if isinstance(network, (str, os.PathLike)) and Path(network).suffix in (".xml", ".tflite"):
        return Runner(network).predict(images, top)
    model = network if isinstance(network, tf.keras.Model) else load(network)
    config = _config(model)
    if config.classifier is None and not config.arguments.get("include_top", True):
        raise ValueError(f"{model.name!r} has no classifier (include_top=False)")
    compute = _compiled(model.get_layer(index=-1) if takes_raw_images(model) else model)
    inputs = (
        image
        for batch in rgb_batches(images)
        for start in range(0, len(batch), _BATCH)
        for image in config.preprocessing(batch[start : start + _BATCH]).numpy()
    )
    outputs = []
    while batch := list(itertools.islice(inputs, _BATCH)):
        outputs.append(compute(tf.stack(batch)).numpy())
    return decode_predictions(np.concatenate(outputs), config, top=top)


def _compiled(model):
    """The model's inference as a `tf.function`, because eager kernels are not thread-safe."""
    with _lock:
        if model not in _functions:
            reference = weakref.ref(model)
            function = tf.function(lambda x: reference()(x, training=False), autograph=False)
            spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
            _functions[model] = function.get_concrete_function(spec)
        return _functions[model]


@tf.autograph.experimental.do_not_convert
def preprocess_input(
    images, network: str | os.PathLike | tf.keras.Model | Preprocessing
) -> tf.Tensor:
    """Crop, resize and normalise images as in the network's evaluation.

    Args:
        images: Pixels from 0 to 255 of any type, `[height, width, 3]` or `[batch, height, width,
            3]`; grey images `[height, width]` or `[..., 1]`. In a `tf.data` pipeline RGB tensors.
        network: As in `predict`, or a `Preprocessing`.

    Returns:
        Float32 `[batch, size, size, 3]`.

    Raises:
        ValueError: If the network has no preprocessing, or images have another shape.
    """
    if not isinstance(network, Preprocessing):
        network = _config(network).preprocessing
    if tf.executing_eagerly():
        return network(rgb_batch(images))
    return network(images[None] if images.shape.rank == 3 else images)


def decode_predictions(
    predictions,
    network: str | os.PathLike | tf.keras.Model | ModelConfig,
    top: int | None = 5,
) -> list[list[tuple[str, float]]]:
    """A network's outputs as class names with probabilities.

    Args:
        predictions: Outputs of the network, `[batch, classes]`.
        network: As in `predict`, or a model config.
        top: Number of classes per image; None: all.

    Returns:
        The value of `predict`.

    Raises:
        ValueError: If the number of predictions is not that of the classes, or `top` is below 1.
    """
    config = network if isinstance(network, ModelConfig) else _config(network)
    predictions = np.asarray(predictions, np.float32)
    if predictions.ndim != 2:
        raise ValueError(f"predictions must be [batch, classes], got {predictions.shape}")
    probabilities = softmax(predictions) if config.output == "logits" else predictions
    return likeliest(probabilities, config.classes, top)


def _config(network) -> ModelConfig:
    model = isinstance(network, tf.keras.Model)
    config = get_model_config(network) if model else find_model_config(network)
    if config is None or config.preprocessing is None:
        raise ValueError(
            f"{getattr(network, 'name', network)!r} has no preprocessing: use a model from "
            "zoo.load, or irnet_tf.model_config.set_model_config"
        )
    return config
