"""From images to class names with probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import io
import itertools
import os
from pathlib import Path

from irnet_tf._files import read_regular
from irnet_tf.description import Description, describe
from irnet_tf.preprocessing import Preprocessing
import numpy as np
import tensorflow as tf
from zoo.inputs import takes_raw_images
from zoo.loading import describe_network, load

SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_FILE_BYTES = 1 << 28
MAX_PIXELS = 1 << 27

_BATCH = 32


def predict(
    network: str | os.PathLike | tf.keras.Model,
    images: str | os.PathLike | Iterable | np.ndarray,
    top: int | None = 5,
) -> list[list[tuple[str, float]]]:
    """The likeliest classes of images, which are preprocessed as the network expects.

    Args:
        network: a name of the zoo, the path of a weights file or of an exported file (`.xml`,
            `.tflite`), or a model that describes itself (of `zoo.load`).
        images: the path of a JPEG or PNG file; that of a folder, all of whose such files are
            taken (see `image_files`); a list of paths; or arrays of pixels, 0 to 255, `[height,
            width, 3]` or `[batch, height, width, 3]`, or a list of them.
        top: how many classes to give an image; None: all.

    Returns:
        For each image its likeliest classes, the likeliest first, as pairs of name and
        probability. Classes without a name are named by their number.

    Raises:
        ValueError: if the network is not known or does not say what it expects, has no
            classifier, or an image cannot be read.
        OSError: if a file cannot be read or fetched.
    """
    if isinstance(network, (str, os.PathLike)) and Path(network).suffix in (".xml", ".tflite"):
        from irnet_runner import Runner

        folder = isinstance(images, (str, os.PathLike)) and os.path.isdir(images)
        return Runner(network).predict(image_files(images) if folder else images, top)
    model = network if isinstance(network, tf.keras.Model) else load(network)
    description = _described(model)
    if description.classifier is None:
        raise ValueError(f"{model.name!r} has no classifier (include_top=False), so no classes")
    preprocessing = description.preprocessing
    raw = takes_raw_images(model)
    found = []
    ready = (preprocess_input(pixels, preprocessing) for pixels in _pixels(images))
    singles = itertools.chain.from_iterable(map(tf.unstack, ready))
    while batch := list(itertools.islice(singles, _BATCH)):
        batch = tf.stack(batch)
        found.append((model.get_layer(index=-1) if raw else model)(batch, training=False))
    if not found:
        raise ValueError("there are no images to look at; give at least one")
    return decode_predictions(tf.concat(found, 0), description, top=top)


def preprocess_input(
    images, network: str | os.PathLike | tf.keras.Model | Preprocessing
) -> tf.Tensor:
    """Crop, resize and normalise images as a network was evaluated.

    Args:
        images: pixels 0 to 255 of any type, `[height, width, 3]` or `[batch, height, width, 3]`.
        network: a name of the zoo, the path of a weights file, a model that describes itself, or
            a `Preprocessing`.

    Returns:
        Float32 `[batch, size, size, 3]`.

    Raises:
        ValueError: if the network does not say what it expects, or images have another shape.
    """
    if not isinstance(network, Preprocessing):
        network = _described(network).preprocessing
    images = tf.convert_to_tensor(images)
    if images.shape.rank == 3:
        images = images[None]
    if images.shape.rank != 4 or images.shape[-1] != 3 or 0 in images.shape[1:3]:
        raise ValueError(
            "images must be [height, width, 3] or [batch, height, width, 3], pixels 0 to 255, got "
            f"shape {tuple(images.shape)}"
        )
    if not tf.reduce_all(tf.math.is_finite(tf.cast(images, tf.float32))):
        raise ValueError("images hold numbers that are not finite")
    return network(images)


def decode_predictions(
    predictions,
    network: str | os.PathLike | tf.keras.Model | Description,
    top: int | None = 5,
) -> list[list[tuple[str, float]]]:
    """What a network gives, as class names with probabilities.

    Args:
        predictions: what the network gave, `[batch, classes]`: logits or probabilities, as its
            description says.
        network: a name of the zoo, the path of a weights file, a model that describes itself, or
            its description.
        top: how many classes to give an image; None: all.

    Returns:
        As `predict`.

    Raises:
        ValueError: if there are not as many predictions as classes, or `top` is below 1.
    """
    if top is not None and (not isinstance(top, int) or top < 1):
        raise ValueError(f"top must be a whole number of at least 1, or None, got {top!r}")
    if not isinstance(network, Description):
        network = _described(network)
    predictions = tf.cast(tf.convert_to_tensor(predictions), tf.float32)
    if predictions.shape.rank != 2:
        raise ValueError(f"predictions must be [batch, classes], got {tuple(predictions.shape)}")
    count = predictions.shape[-1]
    classes = network.classes or tuple(map(str, range(count)))
    if len(classes) != count:
        raise ValueError(f"there are {count} predictions an image for {len(classes)} classes")
    logits = network.output == "logits"
    probabilities = (tf.nn.softmax(predictions) if logits else predictions).numpy()
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [[(classes[i], float(row[i])) for i in best] for row, best in zip(probabilities, order)]


def image_files(folder: str | os.PathLike) -> list[Path]:
    """All JPEG and PNG files in a folder and those below it, sorted.

    Raises:
        ValueError: if there are none.
    """
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{os.fspath(folder)!r} holds no {', '.join(SUFFIXES)} files")
    return files


def read_image(path: str | os.PathLike) -> tf.Tensor:
    """The pixels of a JPEG or PNG file, uint8 `[height, width, 3]`.

    Raises:
        ValueError: if it is no such file, or a larger one than `MAX_PIXELS`.
        OSError: if it cannot be read.
    """
    from PIL import Image

    path = os.fspath(path)
    content = read_regular(path, MAX_FILE_BYTES)
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as header:
            width, height = header.size  # before anything is decoded
        if width * height > MAX_PIXELS:
            raise ValueError(f"it has {width} x {height} pixels, at most {MAX_PIXELS} are decoded")
        if content.startswith(b"\xff\xd8"):  # as in evaluation; the default is off by a level
            return tf.io.decode_jpeg(content, 3, dct_method="INTEGER_ACCURATE")
        return tf.io.decode_image(content, 3, expand_animations=False)
    except (ValueError, OSError, SyntaxError, tf.errors.OpError, Image.DecompressionBombError) as e:
        raise ValueError(f"{path!r} cannot be read as an image: {str(e).splitlines()[0]}") from e


def _pixels(images) -> Iterator:
    """One image, or one batch of them, at a time."""
    if isinstance(images, (str, os.PathLike)):
        folder = os.path.isdir(images)
        yield from map(read_image, image_files(images) if folder else [images])
    elif isinstance(images, (np.ndarray, tf.Tensor)):
        whole = images if len(images.shape) == 4 else images[None]
        yield from (whole[i : i + _BATCH] for i in range(0, len(whole), _BATCH))
    elif isinstance(images, Iterable):
        for image in images:
            yield read_image(image) if isinstance(image, (str, os.PathLike)) else image
    else:
        raise ValueError(
            "images must be a path, a folder, arrays or a list of them, got "
            f"{type(images).__name__}"
        )


def _described(network) -> Description:
    model = isinstance(network, tf.keras.Model)
    description = describe(network) if model else describe_network(network)
    if description is None or description.preprocessing is None:
        raise ValueError(
            f"{getattr(network, 'name', network)!r} does not say what it expects of an image: take "
            "a model of zoo.load, or attach a description with its preprocessing "
            "(irnet_tf.description)"
        )
    return description
