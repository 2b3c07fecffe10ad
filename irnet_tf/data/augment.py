"""The published augmentations, as functions of images and uniform random numbers.

An augmentation has two parts. While an image is read, its crop box is cut out and resized. In the
train step, `change` alters a batch of images on the device. Both use the image's `RANDOM_NUMBERS`
float32 numbers in [0, 1).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import math

from irnet_tf.preprocessing import Preprocessing
import numpy as np
import tensorflow as tf

RANDOM_NUMBERS = 10


def random_resized(shape: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Random crop box: 8 to 100 % of the area, aspect ratio 3/4 to 4/3, clipped to the image.

    Args:
        shape: Shape of the image, height and width first, int32.
        numbers: Random numbers, float32 `[RANDOM_NUMBERS]`.

    Returns:
        Int32 `[4]`: top, left, height and width.
    """
    size = tf.cast(shape[:2], tf.float32)
    area = tf.reduce_prod(size) * (0.08 + 0.92 * numbers[0])
    root = tf.exp((numbers[1] - 0.5) * math.log(4 / 3))  # of width / height
    extent = tf.sqrt(area) * tf.stack([1 / root, root])
    extent = tf.clip_by_value(tf.round(extent), 1, size)
    corner = tf.round(numbers[2:4] * (size - extent))
    return tf.cast(tf.concat([corner, extent], 0), tf.int32)


def crop(
    image: tf.Tensor, box: Callable, numbers: tf.Tensor | None, shrink_to: int | None = None
) -> tf.Tensor:
    """Cuts a box out of an image. Of a JPEG file only the box is decoded.

    Args:
        image: Bytes of a JPEG, PNG or BMP file, or pixels, uint8 `[height, width, 3]`.
        box: Function of the image's shape and `numbers`, such as `random_resized`.
        numbers: Random numbers, float32 `[RANDOM_NUMBERS]`.
        shrink_to: Target size. A box that is at least 2, 4 or 8 times as large is shrunk by that
            factor, which is cheap while JPEG is decoded.

    Returns:
        RGB pixels, uint8 `[h, w, 3]`.
    """

    def ratios(part):
        times = part[2:] // (shrink_to or part[2:])
        return tf.reduce_sum(tf.cast(tf.reduce_min(times) >= [2, 4, 8], tf.int32))

    def cut_jpeg():
        part = box(tf.image.extract_jpeg_shape(image), numbers)

        def decode(ratio):
            return tf.image.decode_and_crop_jpeg(
                image, part // ratio, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
            )  # equal to Pillow; the default is hardly faster

        if shrink_to is None:
            return decode(1)
        return tf.switch_case(ratios(part), [lambda r=r: decode(r) for r in (1, 2, 4, 8)])

    def cut(pixels):
        part = box(tf.shape(pixels), numbers)
        top, left, height, width = tf.unstack(part)
        pixels = pixels[top : top + height, left : left + width]
        size = part[2:] // tf.bitwise.left_shift(1, ratios(part))
        return tf.cast(tf.round(tf.image.resize(pixels, size, "area")), tf.uint8)

    def cut_other():
        pixels = tf.io.decode_image(image, channels=3, expand_animations=False)
        return cut(tf.ensure_shape(pixels, [None, None, 3]))

    if image.dtype != tf.string:
        return cut(image)
    return tf.cond(tf.io.is_jpeg(image), cut_jpeg, cut_other)


def flip(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Flips half of the images left to right."""
    return tf.where(numbers[:, 4, None, None, None] < 0.5, tf.reverse(images, [2]), images)


def random_crop(images: tf.Tensor, numbers: tf.Tensor, flip: bool = False) -> tf.Tensor:
    """Pads 4 zeros per side, crops at random and, for CIFAR, flips half of the images."""
    size = images.shape[1]
    images = tf.cast(images, tf.float32)  # GPUs have no `gather` of uint8, no `range` of int32
    padded = tf.pad(images, [[0, 0], [4, 4], [4, 4], [0, 0]])
    offsets = tf.cast(numbers[:, :2] * 9, tf.int64)
    rows = columns = tf.range(size, dtype=tf.int64)[None]
    if flip:
        columns = tf.where(numbers[:, 2:3] < 0.5, size - 1 - columns, columns)
    images = tf.gather(padded, offsets[:, :1] + rows, axis=1, batch_dims=1)
    columns = tf.repeat((offsets[:, 1:] + columns)[:, None], size, axis=1)
    return tf.gather(images, columns, axis=2, batch_dims=2)


# Matrices from a pixel to its luma, its chroma, and its chroma turned by 90 degrees in YIQ.
_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_GREY = np.outer(np.ones(3), _LUMA)
_TURNED = np.linalg.solve(_YIQ, [[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ _YIQ
_LUMA_CHROMA_TURNED = np.stack([_GREY.T, np.eye(3) - _GREY.T, _TURNED.T]).reshape(3, 9)


def jitter(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    r"""Brightness, contrast and saturation by a factor of 0.8 to 1.2, hue by up to 36 degrees.

    With factors `b`, `c`, `s`, an angle `h`, a pixel's luma `Y` and chroma `x - Y`:

        y = c * b * (Y + s * rotate(x - Y, h)) + (1 - c) * b * mean(Y)    clipped to 0 ... 255

    It follows torchvision's `ColorJitter(0.2, 0.2, 0.2, 0.1)` with two differences: the order is
    fixed with one clipping at the end, and hue is a rotation in the I-Q plane of YIQ, not in HSV.

    Args:
        images: Pixels 0 to 255, `[b, size, size, 3]`.
        numbers: Random numbers, float32 `[b, RANDOM_NUMBERS]`.

    Returns:
        Float32 of the same shape and range.
    """
    size = images.shape[1]
    rows = tf.reshape(tf.cast(images, tf.float32), [-1, size, size * 3])
    luma = tf.constant(np.tile(_LUMA / size, size), tf.float32)
    mean = tf.linalg.matvec(tf.reduce_mean(rows, 1), luma)
    brightness, contrast, saturation = tf.unstack(0.8 + 0.4 * numbers[:, 5:8], axis=1)
    angle = (2 * numbers[:, 8] - 1) * (0.1 * 2 * math.pi)
    shares = [tf.ones_like(angle), saturation * tf.cos(angle), saturation * tf.sin(angle)]
    shares = tf.stack(shares, 1) * (contrast * brightness)[:, None]
    matrices = shares @ tf.constant(_LUMA_CHROMA_TURNED, tf.float32)
    matrices = tf.reshape(matrices, [-1, 3, 3])
    constant = (1 - contrast) * brightness * mean
    images = tf.reshape(rows, [-1, size * size, 3]) @ matrices + constant[:, None, None]
    return tf.reshape(tf.clip_by_value(images, 0, 255), [-1, size, size, 3])


def flip_and_jitter(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """ImageNet's augmentation."""
    return jitter(flip(images, numbers), numbers)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images.

    Attributes:
        crop_box: Function such as `random_resized`. None: the centre square, as in evaluation.
        change: Function of images `[b, size, size, 3]`, 0 to 255, and random numbers.
    """

    crop_box: Callable | None = None
    change: Callable = lambda images, numbers: images


# Recipes, run folders and weights files store these names.
AUGMENTATIONS = {
    "none": Augmentation(),
    "shift": Augmentation(change=random_crop),
    "shift_and_flip": Augmentation(change=functools.partial(random_crop, flip=True)),
    "imagenet": Augmentation(random_resized, flip_and_jitter),
    "imagenet_without_jitter": Augmentation(random_resized, flip),
}


def finish(
    images: tf.Tensor, numbers: tf.Tensor, *, augmentation: str, preprocessing: Preprocessing
) -> tf.Tensor:
    """Augments and normalises a batch of uint8 images; see `training_batches`."""
    images = AUGMENTATIONS[augmentation].change(images, numbers)
    shape = images.shape
    rows = tf.reshape(tf.cast(images, tf.float32), [-1, shape[2] * 3])  # long rows are fast
    scale, offset = (np.tile(x, shape[2]) for x in preprocessing.scale_and_offset())
    return tf.reshape(rows * scale + offset, [-1, *shape[1:]])
