"""Preprocessing, against NumPy and Pillow."""

import dataclasses

from irnet_tf.preprocessing import CIFAR10, DIGITS, IMAGENET, Preprocessing
import numpy as np
from PIL import Image
import pytest


def pixels(height, width):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)


@pytest.mark.parametrize("preprocessing", [CIFAR10, DIGITS, IMAGENET])
def test_normalisation(preprocessing):
    images = pixels(5, 7)
    expected = (images / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    np.testing.assert_allclose(preprocessing.normalise(images), expected, atol=1e-5)
    scale, offset = preprocessing.scale_and_offset()
    np.testing.assert_allclose(images * scale + offset, expected, atol=1e-5)


def test_an_image_of_the_right_size_is_only_normalised():
    images = pixels(32, 32)
    np.testing.assert_allclose(CIFAR10(images), CIFAR10.normalise(images), atol=1e-6)


@pytest.mark.parametrize("height, width", [(90, 60), (60, 90)])
def test_the_centre_square_is_cropped_and_resized(height, width):
    # On smooth images the antialiasing filters of Pillow and TensorFlow agree.
    y, x = np.mgrid[:height, :width]
    image = np.stack([2 * y, 2 * x, y + x], -1).astype(np.uint8)
    left, top = (width - 60) // 2, (height - 60) // 2
    box = (left, top, left + 60, top + 60)
    expected = Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR, box)
    preprocessing = Preprocessing(20, (0, 0, 0), (1 / 255,) * 3)
    np.testing.assert_allclose(preprocessing(image[None])[0], np.asarray(expected), atol=0.6)


def test_imagenets_crop_is_resize_256_crop_224():
    top, left, height, width = IMAGENET.square(np.array([256, 300])).numpy()
    assert (top, left, height, width) == (16, 38, 224, 224)


def test_dictionary_round_trip():
    for preprocessing in (CIFAR10, IMAGENET):
        assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size must be"),
        ({"size": 2.5}, "size must be"),
        ({"size": 60_000}, "size must be 1 to 4096 pixels, got 60000"),
        ({"std": (10**400,) * 3}, "std must be three"),
        ({"mean": (0.5, 0.5)}, "mean must be three"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean must be three"),
        ({"mean": "abc"}, "mean must be three"),
        ({"std": (0.5, 0.5, 0)}, "std must be three finite numbers above 0"),
        ({"crop": 0}, "crop must be"),
        ({"crop": "all"}, "crop must be"),
    ],
)
def test_invalid_values_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CIFAR10, **change)
