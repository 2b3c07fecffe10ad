"""From images to class names with probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import io
import itertools
import os
from pathlib import Path
import warnings

from irnet_runner import Runner, pixels_of
from irnet_tf._utils import read_regular
from irnet_tf.layers import takes_raw_images
from irnet_tf.model_config import ModelConfig, get_model_config
from irnet_tf.preprocessing import Preprocessing
import numpy as np
import tensorflow as tf
from zoo.loading import describe_network, load

SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_FILE_BYTES = 1 << 28
MAX_PIXELS = 1 << 27

_BATCH = 32


def predict(
    network: str | os.PathLike | tf.keras.Model,
    images: str | os.PathLike | Iterable | np.ndarray | tf.Tensor,
    top: int | None = 5,
) -> list[list[tuple[str, float]]]:
    """The likeliest classes of images, which are preprocessed as the network expects.

    Args:
        network: a name of the zoo, the path of a weights file or of an exported file (`.xml`,
            `.tflite`), or a model that describes itself (of `zoo.load`).
        images: the path of a JPEG or PNG file; that of a folder, all of whose such files are
            taken (see `image_files`); pixels, 0 to 255, as of `preprocess_input`; an image of
            Pillow's; or a list of any of these but folders. What seems not to be pixels 0 to 255
            is warned of.
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
        runner = Runner(network)
        return runner.predict(_one_by_one(images, "preprocessing" in runner.facts), top)
    model = network if isinstance(network, tf.keras.Model) else load(network)
    description = _described(model)
    if description.classifier is None and not description.arguments.get("include_top", True):
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


@tf.autograph.experimental.do_not_convert  # in a pipeline
def preprocess_input(
    images, network: str | os.PathLike | tf.keras.Model | Preprocessing
) -> tf.Tensor:
    """Crop, resize and normalise images as a network was evaluated.

    Args:
        images: pixels 0 to 255 of any type, `[height, width, 3]` or `[batch, height, width, 3]`;
            grey ones `[height, width]` or `[..., 1]`. May be part of a `tf.data` pipeline.
        network: a name of the zoo, the path of a weights file, a model that describes itself, or
            a `Preprocessing`.

    Returns:
        Float32 `[batch, size, size, 3]`.

    Raises:
        ValueError: if the network does not say what it expects, or images have another shape.
    """
    if not isinstance(network, Preprocessing):
        network = _described(network).preprocessing
    images = _rgb(images)
    if tf.executing_eagerly():  # in a pipeline nothing can be said of values
        _check_values(images)
    return network(images)


def _rgb(images) -> tf.Tensor:
    """`[batch, height, width, 3]`; of grey images all three are the same."""
    images = _tensor(images)
    shape = images.shape
    if images.dtype in (tf.bool, tf.uint32, tf.uint64):  # TensorFlow resizes none of these
        images = tf.cast(images, tf.float32)
    if shape.rank == 2:
        images = images[..., None]
    if images.shape.rank == 3:
        images = images[None]
    if images.shape.rank != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:3]:
        raise ValueError(
            "images must be [height, width, 3] or [batch, height, width, 3], pixels 0 to 255, got "
            f"shape {tuple(shape)}; grey ones [height, width] or [..., 1]"
        )
    return tf.tile(images, (1, 1, 1, 3)) if images.shape[-1] == 1 else images


def _tensor(images) -> tf.Tensor:
    try:
        images = tf.convert_to_tensor(images)
    except (ValueError, TypeError) as error:
        raise ValueError(f"images must be numbers, got {type(images).__name__}: {error}") from error
    if images.dtype == tf.string:
        raise ValueError("images must be numbers, got a tensor of strings")
    return images


def _check_values(images):
    values = tf.cast(images, tf.float32)
    if not tf.reduce_all(tf.math.is_finite(values)):
        raise ValueError("images hold numbers that are not finite")
    if not len(values):
        return
    low, high = float(tf.reduce_min(values)), float(tf.reduce_max(values))
    small = images.dtype.is_floating and 0 <= low < high <= 1
    if small or low < 0 or high > 255:
        warnings.warn(
            f"the images have values from {low:g} to {high:g}, and are taken as pixels from 0 to "
            f"255: {'multiply them by 255' if small else 'give them before they are normalised'}",
            stacklevel=3,
        )


def decode_predictions(
    predictions,
    network: str | os.PathLike | tf.keras.Model | ModelConfig,
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
    if not isinstance(network, ModelConfig):
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
    from PIL import Image, UnidentifiedImageError

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
        unknown = isinstance(e, UnidentifiedImageError)
        reason = "it is no JPEG or PNG file" if unknown else str(e).splitlines()[0]
        raise ValueError(f"{path!r} cannot be read as an image: {reason}") from e


def _one_by_one(images, are_pixels) -> Iterator[np.ndarray]:
    """Images as arrays, each by itself."""
    for image in _pixels(images):
        image = _tensor(image)
        if are_pixels:
            _check_values(image)
        yield from (image if image.shape.rank == 4 else image[None]).numpy()


def _pixels(images) -> Iterator:
    """One image, or one batch of them, at a time."""
    array = hasattr(images, "__array__") and len(getattr(images, "shape", ())) != 1
    one = array or isinstance(images, (str, os.PathLike))
    if isinstance(images, (str, os.PathLike)) and os.path.isdir(images):
        images = image_files(images)
    elif one or not isinstance(images, Iterable):
        images = [images]
    for image in images:
        if isinstance(image, (str, os.PathLike)):
            image = read_image(image)
        elif hasattr(image, "convert"):  # Pillow's
            image = pixels_of(image)
        elif isinstance(image, (list, tuple)):  # rows of numbers, or images with their labels
            raise ValueError(
                f"images must be paths or arrays of pixels, got a {type(image).__name__} among "
                "them: make an array of numbers in lists, and leave labels out"
            )
        if len(getattr(image, "shape", ())) == 4:
            yield from (image[i : i + _BATCH] for i in range(0, len(image), _BATCH))
        else:
            yield image


def _described(network) -> ModelConfig:
    model = isinstance(network, tf.keras.Model)
    description = get_model_config(network) if model else describe_network(network)
    if description is None or description.preprocessing is None:
        raise ValueError(
            f"{getattr(network, 'name', network)!r} does not say what it expects of an image: take "
            "a model of zoo.load, or attach a description with its preprocessing "
            "(irnet_tf.model_config)"
        )
    return description
