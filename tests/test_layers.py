"""Layers against the formulas that define them, compiled on a CPU or not."""

import irnet_tf
from irnet_tf.layers import HardTanh, OptionAShortcut, SymmetricConv2D, hard_tanh
import numpy as np
import pytest
import tensorflow as tf


def bfloat16(x):
    """Rounded to bfloat16, as float64."""
    return tf.cast(tf.cast(x, tf.bfloat16), tf.float64).numpy()


def value_and_gradient(function, x, dy):
    @tf.function
    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x, dy)

    return [tf.cast(value, tf.float64).numpy() for value in run(x, dy)]


@pytest.fixture
def batch(rng):
    x, dy = (bfloat16(rng.standard_normal((4, 6, 6, 8))) for _ in range(2))
    x[0, 0, 0, :3] = 0, -1, 1
    return x, dy


@pytest.mark.parametrize("t", [0.1, 1.0, 10.0])
def test_ede_in_bfloat16_is_its_formula(batch, t):
    x, dy = batch
    slope = tf.Variable(t, dtype=tf.float64)
    y, dx = value_and_gradient(
        lambda x: irnet_tf.ede_sign(x, slope),
        *(tf.cast(value, tf.bfloat16) for value in batch),
    )
    np.testing.assert_array_equal(y, np.where(x >= 0, 1, -1))
    k = max(1 / t, 1)
    np.testing.assert_allclose(dx, dy * k * t * (1 - np.tanh(t * x) ** 2), rtol=5e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_hard_tanh_has_the_gradient_of_clip_in_first_and_second_order(dtype):
    x = tf.constant([-3.0, -1.01, -0.5, 0.0, 0.5, 1.0, 1.02, 7.0], dtype)
    dy = tf.constant(np.arange(1.0, 9), dtype)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch([x, dy])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = HardTanh()(x) if dtype == "float32" else hard_tanh(x)
        dx = tape.gradient(y, x, dy)
    inside = np.array([0, 0, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(tf.cast(y, "float64"), np.clip(tf.cast(x, "float64"), -1, 1))
    np.testing.assert_array_equal(tf.cast(dx, "float64"), inside * np.arange(1, 9))
    np.testing.assert_array_equal(tf.cast(outer.gradient(dx, dy), "float64"), inside)
    assert outer.gradient(dx, x) is None  # zero


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("side", [6, 7])
def test_the_shortcut_takes_every_second_pixel_in_training_too(rng, dtype, side):
    layer = OptionAShortcut(8, 2, dtype=dtype)
    x = bfloat16(rng.standard_normal((2, side, side, 4)))
    dy = bfloat16(rng.standard_normal((2, (side + 1) // 2, (side + 1) // 2, 8)))
    expected_y, expected_dx = np.zeros_like(dy), np.zeros_like(x)
    expected_y[..., 2:6] = x[:, ::2, ::2]
    expected_dx[:, ::2, ::2] = dy[..., 2:6]
    for training in (True, False):
        y, dx = value_and_gradient(
            lambda x, training=training: layer(x, training=training),
            *(tf.cast(value, dtype) for value in (x, dy)),
        )
        np.testing.assert_array_equal(y, expected_y)
        np.testing.assert_array_equal(dx, expected_dx)


def test_a_bfloat16_network_exports(tmp_path):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    images = tf.keras.Input([6, 6, 4])
    model = tf.keras.Model(images, OptionAShortcut(8, 2)(HardTanh()(images)))
    x = tf.random.stateless_normal([2, 6, 6, 4], [0, 0])
    model.export(str(tmp_path))
    served = tf.saved_model.load(str(tmp_path)).serve(x)
    expected = np.zeros([2, 3, 3, 8])
    expected[..., 2:6] = bfloat16(np.clip(bfloat16(x), -1, 1))[:, ::2, ::2]
    np.testing.assert_array_equal(tf.cast(served, tf.float64), expected)


@pytest.mark.parametrize("strides, dilation", [(1, 1), (2, 1), (1, 2), (1, 3)])
def test_symmetric_padding_is_that_of_the_definition(rng, strides, dilation):
    """y[i, j] sums x[i * stride + dilation * (a - 1), ...] over a 3x3 kernel, zeros outside."""
    layer = SymmetricConv2D(4, 3, strides=strides, dilation_rate=dilation, use_bias=False)
    x = rng.standard_normal((1, 9, 7, 2)).astype(np.float32)
    y = layer(x).numpy()
    kernel = layer.get_weights()[0]
    padded = np.pad(x[0], [(dilation, dilation)] * 2 + [(0, 0)])
    height, width = (-(-side // strides) for side in (9, 7))
    assert y.shape == (1, height, width, 4)
    for i in range(height):
        for j in range(width):
            expected = sum(
                padded[i * strides + dilation * a, j * strides + dilation * b] @ kernel[a, b]
                for a in range(3)
                for b in range(3)
            )
            np.testing.assert_allclose(y[0, i, j], expected, rtol=1e-4, atol=1e-5)
