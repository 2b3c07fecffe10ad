"""Layers, against the sums that define them."""

from irnet_tf.layers import SymmetricConv2D
import numpy as np
import pytest


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
