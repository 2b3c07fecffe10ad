"""Augmentation and normalisation in the training step."""

from irnet_tf import data
from irnet_tf.data import augment
from irnet_tf.preprocessing import CIFAR10
from irnet_tf.training import Recipe, compile_model
import numpy as np
import pytest
import tensorflow as tf


def split(n=24):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)
    labels = (np.arange(n) % 3).astype(np.int32)
    return data.Split(n, lambda i: (tf.gather(images, i), tf.gather(labels, i)), 32)


def batches(augmentation, on_device, **changes):
    arguments = {"batch_size": 8, "seed": 1, "epochs": 2, **changes}
    return data.training_batches(
        split(), preprocessing=CIFAR10, augmentation=augmentation, on_device=on_device, **arguments
    )


def network(augmentation="shift_and_flip", jit_compile=False):
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [tf.keras.layers.Conv2D(4, 3, 2, input_shape=(32, 32, 3)), tf.keras.layers.Flatten(),
         tf.keras.layers.Dense(3)]
    )  # fmt: skip
    recipe = Recipe("cifar10", 2, 8, 1e-3, augmentation=augmentation)
    return compile_model(model, recipe, 3, preprocessing=CIFAR10, jit_compile=jit_compile)


@pytest.mark.parametrize("augmentation", ["none", "shift_and_flip", "imagenet"])
def test_the_device_makes_the_same_images_as_the_pipeline(augmentation):
    for (x, y), ((pixels, numbers), labels) in zip(
        batches(augmentation, False), batches(augmentation, True), strict=True
    ):
        assert pixels.dtype == tf.uint8 and numbers.shape == (8, augment.RANDOM_NUMBERS)
        np.testing.assert_array_equal(labels, y)
        finished = augment.finish(pixels, numbers, augmentation=augmentation, preprocessing=CIFAR10)
        np.testing.assert_allclose(finished, x, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_ends_with_the_same_weights(jit_compile):
    """Batches that are augmented on the device, and batches that the pipeline augmented."""
    plain = network("none")
    plain.fit(batches("shift_and_flip", False), epochs=1, verbose=0)
    on_device = network(jit_compile=jit_compile)
    history = on_device.fit(
        batches("shift_and_flip", True),
        epochs=1,
        verbose=0,
        validation_data=data.evaluation_batches(split(), batch_size=10, preprocessing=CIFAR10),
    )
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(history.history)
    for ours, expected in zip(on_device.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert any(
        np.abs(a - b).max() > 1e-4 for a, b in zip(plain.get_weights(), network().get_weights())
    )
