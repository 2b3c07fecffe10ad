"""A network's preprocessing: size, crop, mean and std of its input images.

The zoo defines it and the weights file stores it. Training, evaluation, export and prediction use
it from there.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import tensorflow as tf

MAX_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Converts RGB images of any size to a network's input.

    The centre square is cropped, resized to `size` x `size` (bilinear, antialiased) and normalised
    per channel: `(x / 255 - mean) / std`.

    Attributes:
        size: Height and width of the input in pixels, 1 to 4096.
        mean, std: Mean and standard deviation (above 0) of red, green and blue between 0 and 1.
        crop: Side of the square as a fraction of the image's shorter side, above 0 and at most 1.
            224 / 256 is ImageNet's "resize to 256, crop 224".

    Raises:
        ValueError: If a value is outside these ranges.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float = 1.0

    def __post_init__(self):
        if type(self.size) is not int or not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"size must be 1 to {MAX_SIZE} pixels, got {self.size!r}")
        for name, low in (("mean", -math.inf), ("std", 0)):
            value = getattr(self, name)
            try:
                numbers = tuple(float(number) for number in value)
            except (TypeError, ValueError, OverflowError):
                numbers = ()
            if len(numbers) != 3 or not all(low < number < math.inf for number in numbers):
                above = " above 0" if name == "std" else ""
                raise ValueError(
                    f"{name} must be three finite numbers{above}, one per channel, got {value!r}"
                )
            object.__setattr__(self, name, numbers)
        if not isinstance(self.crop, (int, float)) or not 0 < self.crop <= 1:
            raise ValueError(f"crop must be above 0 and at most 1, got {self.crop!r}")

    def scale_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """Float32 `[3]` each: `x * scale + offset` equals `(x / 255 - mean) / std`."""
        mean, std = np.array(self.mean), np.array(self.std)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def normalise(self, images) -> tf.Tensor:
        """Maps pixels 0 to 255, `[..., 3]`, to normalised float32 of the same shape."""
        images = tf.cast(images, tf.float32) / 255.0
        return (images - tf.constant(self.mean)) / tf.constant(self.std)

    def square(self, shape: tf.Tensor) -> tf.Tensor:
        """The centre square of an image: top, left, height and width, int32 `[4]`.

        Args:
            shape: Shape of the image, height and width first, int32.
        """
        side = tf.cast(tf.reduce_min(shape[:2]), tf.float32) * self.crop
        extent = tf.maximum(tf.cast(tf.round(side), tf.int32), 1)
        return tf.concat([(shape[:2] - extent) // 2, [extent, extent]], 0)

    def __call__(self, images) -> tf.Tensor:
        """Crops, resizes and normalises images.

        Args:
            images: Pixels 0 to 255 of any type, `[batch, height, width, 3]`.

        Returns:
            Float32 `[batch, size, size, 3]`.
        """
        images = tf.convert_to_tensor(images)
        top, left, height, width = tf.unstack(self.square(tf.shape(images)[1:3]))
        images = images[:, top : top + height, left : left + width]
        images = tf.image.resize(images, (self.size, self.size), antialias=True)
        return self.normalise(images)

    def to_dict(self) -> dict:
        """The fields as JSON types."""
        return {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values) -> Preprocessing:
        """Inverse of `to_dict`. Raises ValueError for other fields or invalid values."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not {"size", "mean", "std"} <= set(values) <= names:
            raise ValueError(
                f"preprocessing must be an object with {sorted(names)} (crop is optional), got "
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
