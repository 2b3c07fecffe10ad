"""What a network expects of an image: its side, how others are cropped and resized, mean, std.

One frozen description that the zoo states, the weights file keeps, and training, evaluation,
export and prediction take from there.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From an RGB image of any size to what a network takes in.

    In evaluation the centre square is cropped, made `size` x `size` (bilinear, antialiased)
    and normalised: `(x / 255 - mean) / std`, channel by channel.

    Attributes:
        size: side of the images that go in, in pixels.
        mean: per channel (red, green, blue), of images between 0 and 1.
        std: likewise; above 0.
        crop: share of the shorter side that the square covers, above 0 and at most 1. 224 / 256
            is ImageNet's "resize to 256, crop 224".

    Raises:
        ValueError: for values outside these ranges.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float = 1.0

    def __post_init__(self):
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise ValueError(f"size must be a whole number of pixels above 0, got {self.size!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            try:
                numbers = tuple(float(number) for number in value)
            except (TypeError, ValueError):
                numbers = ()
            low = -math.inf if name == "mean" else 0
            if len(numbers) != 3 or not all(low < number < math.inf for number in numbers):
                above = "" if name == "mean" else " above 0"
                raise ValueError(
                    f"{name} must be three finite numbers{above}, one a channel, of images "
                    f"between 0 and 1, got {value!r}"
                )
            object.__setattr__(self, name, numbers)
        try:
            fits = 0 < self.crop <= 1
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(f"crop must be above 0 and at most 1, got {self.crop!r}")

    def scale_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """Float32 `[3]` each: `x * scale + offset` is `(x / 255 - mean) / std`."""
        mean, std = np.array(self.mean), np.array(self.std)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def normalise(self, images) -> tf.Tensor:
        """From pixels 0 to 255, `[..., 3]`, to float32 of the same shape."""
        images = tf.cast(images, tf.float32) / 255.0
        return (images - tf.constant(self.mean)) / tf.constant(self.std)

    def square(self, shape: tf.Tensor) -> tf.Tensor:
        """The part that is cropped in evaluation.

        Args:
            shape: of an image, height and width first, int32.

        Returns:
            int32 `[4]`: top, left, height and width.
        """
        side = tf.cast(tf.reduce_min(shape[:2]), tf.float32) * self.crop
        extent = tf.maximum(tf.cast(tf.round(side), tf.int32), 1)
        return tf.concat([(shape[:2] - extent) // 2, [extent, extent]], 0)

    def __call__(self, images) -> tf.Tensor:
        """Crop, resize and normalise as in evaluation.

        Args:
            images: pixels 0 to 255, of any type, `[batch, height, width, 3]`.

        Returns:
            Float32 `[batch, size, size, 3]`.
        """
        images = tf.convert_to_tensor(images)
        top, left, height, width = tf.unstack(self.square(tf.shape(images)[1:3]))
        images = images[:, top : top + height, left : left + width]
        images = tf.image.resize(images, (self.size, self.size), antialias=True)
        return self.normalise(images)

    def to_dict(self) -> dict:
        """Of JSON types."""
        return {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values) -> Preprocessing:
        """What `to_dict` gave.

        Raises:
            ValueError: if it is not that; says what is wrong.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not {"size", "mean", "std"} <= set(values) <= names:
            raise ValueError(
                f"preprocessing must be an object of {sorted(names)} (crop may be left out), got "
                f"{values!r}"
            )
        return cls(**values)

    def __str__(self):
        part = "" if self.crop == 1 else f" of {self.crop:.4g} of the shorter side"
        return (
            f"centre square{part}, {self.size}x{self.size}, mean "
            f"{', '.join(f'{m:g}' for m in self.mean)}, std {', '.join(f'{s:g}' for s in self.std)}"
        )


DIGITS = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
CIFAR10 = Preprocessing(32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET = Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop=224 / 256)
