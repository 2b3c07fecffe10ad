"""VGG-Small for 32x32 images (section 4.2)."""

from __future__ import annotations

from irnet_tf.model_config import register_network
from irnet_tf.models.common import LayerFactory, classifier, image_input
import tensorflow as tf


@register_network
def vgg_small(
    *,
    weight_bits: int = 1,
    activation_bits: int = 1,
    num_classes: int = 10,
    input_shape=(32, 32, 3),
    input_tensor=None,
    include_top: bool = True,
    classifier_activation=None,
    padding: str = "same",
    kernel_quantizer=None,
    input_quantizer=None,
    name: str = "vgg_small",
) -> tf.keras.Model:
    """VGG-Small: six 3x3 convolutions, three 2x2 poolings, one dense layer.

    Pooling is between a convolution and its batch norm. The sides of `input_shape` are at least 8
    pixels. Without the top the output is `[batch, height / 8, width / 8, 512]`. The arguments are
    explained in `irnet_tf.models`.
    """
    make = LayerFactory(weight_bits, activation_bits, padding, kernel_quantizer, input_quantizer)
    x, inputs = image_input(input_shape, input_tensor)
    if any(side is None or side < 8 for side in x.shape[1:3]):
        raise ValueError(
            f"vgg_small halves images three times and needs known sides of at least 8 pixels, "
            f"got input_shape {tuple(x.shape[1:])}"
        )

    x = make.conv(x, 128, 3, 1, "conv0")
    x = make.batch_norm(x, "bn0")
    x = make.activation(x, "nonlinear0")
    for i, filters in enumerate((128, 256, 256, 512, 512), start=1):
        x = make.binary_conv(x, filters, 1, f"conv{i}")
        if i % 2:
            x = tf.keras.layers.MaxPool2D(2, name=f"pool{i}")(x)
        x = make.batch_norm(x, f"bn{i}")
        x = make.activation(x, f"nonlinear{i}")
    if include_top:
        x = tf.keras.layers.Flatten(name="flatten")(x)
        x = classifier(x, num_classes, classifier_activation, "fc")
    return tf.keras.Model(inputs, x, name=name)
