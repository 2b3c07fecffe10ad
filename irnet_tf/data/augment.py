"""Augmentation as published, as functions of images and of uniform random numbers.

Nothing here draws a random number: whoever calls decides what they depend on. An
augmentation has two parts. `crop` makes one uint8 image of any size `[height, width, 3]`
into a square one `[size, size, 3]`; `change` alters a whole batch of such squares.
Both get `RANDOM_NUMBERS` float32 numbers in [0, 1) an image.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import tensorflow as tf

RANDOM_NUMBERS = 10


def centre_crop(image: tf.Tensor, size: int, numbers=None, share: float = 1.0) -> tf.Tensor:
    """The square in the middle, `share` of the shorter side, resized."""
    del numbers
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    side = tf.minimum(height, width) * share
    return _crop_and_resize(image, (height - side) / 2, (width - side) / 2, side, side, size)


def imagenet_centre_crop(image: tf.Tensor, size: int, numbers=None) -> tf.Tensor:
    """As if the shorter side were made 256 for a crop of 224: the middle 7 / 8."""
    return centre_crop(image, size, numbers, share=224 / 256)


def random_resized_crop(image: tf.Tensor, size: int, numbers: tf.Tensor) -> tf.Tensor:
    """8 to 100 % of the area, 3 / 4 to 4 / 3 as wide as high, somewhere in the image.

    A crop that would stick out is made as large as the image allows.
    """
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    area = height * width * (0.08 + 0.92 * numbers[0])
    ratio = tf.exp((2 * numbers[1] - 1) * tf.math.log(4 / 3))
    crop_height = tf.minimum(tf.sqrt(area / ratio), height)
    crop_width = tf.minimum(tf.sqrt(area * ratio), width)
    top, left = numbers[2] * (height - crop_height), numbers[3] * (width - crop_width)
    return _crop_and_resize(image, top, left, crop_height, crop_width, size)


def _crop_and_resize(image, top, left, height, width, size):
    top, left = tf.cast(tf.round(top), tf.int32), tf.cast(tf.round(left), tf.int32)
    height = tf.maximum(tf.cast(tf.round(height), tf.int32), 1)
    width = tf.maximum(tf.cast(tf.round(width), tf.int32), 1)
    image = image[top : top + height, left : left + width]
    image = tf.image.resize(image, (size, size), antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def keep(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """As in evaluation."""
    del numbers
    return images


def shift(images: tf.Tensor, numbers: tf.Tensor, flip: bool = False) -> tf.Tensor:
    """Pads 4 zeros a side and crops at random: for digits, which must not be mirrored."""
    size = images.shape[1]
    padded = tf.pad(images, [[0, 0], [4, 4], [4, 4], [0, 0]])
    offsets = tf.cast(numbers[:, :2] * 9, tf.int32)
    rows = columns = tf.range(size)[None]
    if flip:
        columns = tf.where(numbers[:, 2:3] < 0.5, size - 1 - columns, columns)
    images = tf.gather(padded, offsets[:, :1] + rows, axis=1, batch_dims=1)
    columns = tf.repeat((offsets[:, 1:] + columns)[:, None], size, axis=1)
    return tf.gather(images, columns, axis=2, batch_dims=2)


def shift_and_flip(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """CIFAR's: pads 4 zeros a side, crops at random, mirrors half of the images."""
    return shift(images, numbers, flip=True)


def flip_and_jitter(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """ImageNet's: mirrors half of the images; brightness, contrast and saturation by a factor
    of 0.8 to 1.2 each, hue by up to a tenth of the circle."""
    flip = numbers[:, 4, None, None, None] < 0.5
    images = tf.where(flip, tf.reverse(images, [2]), images)
    images = tf.cast(images, tf.float32) / 255.0
    brightness, contrast, saturation = tf.unstack(
        0.8 + 0.4 * numbers[:, 5:8, None, None, None], axis=1
    )
    images = tf.clip_by_value(images * brightness, 0.0, 1.0)
    grey_level = tf.reduce_mean(tf.image.rgb_to_grayscale(images), [1, 2, 3], keepdims=True)
    images = tf.clip_by_value(grey_level + (images - grey_level) * contrast, 0.0, 1.0)
    grey = tf.image.rgb_to_grayscale(images)
    images = tf.clip_by_value(grey + (images - grey) * saturation, 0.0, 1.0)
    hue, rest = tf.split(tf.image.rgb_to_hsv(images), [1, 2], axis=-1)
    hue = tf.math.floormod(hue + 0.2 * numbers[:, 8, None, None, None] - 0.1, 1.0)
    images = tf.image.hsv_to_rgb(tf.concat([hue, rest], -1))
    return tf.cast(tf.round(images * 255.0), tf.uint8)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    crop: Callable = centre_crop
    change: Callable = keep
    evaluation_crop: Callable = centre_crop


AUGMENTATIONS = {
    "none": Augmentation(),
    "shift": Augmentation(change=shift),
    "shift_and_flip": Augmentation(change=shift_and_flip),
    "imagenet": Augmentation(random_resized_crop, flip_and_jitter, imagenet_centre_crop),
}
