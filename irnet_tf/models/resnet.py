"""Residual networks: 6n + 2 layers for small images, and ResNet-18 / 34.

Two structures: `"normal"` (He et al., 2016) has a shortcut around two convolutions, `"bireal"`
(Liu et al., Bi-Real Net, 2018) one around each convolution, which keeps real-valued activations.
"""

from __future__ import annotations

from irnet_tf._utils import check_choice
from irnet_tf.layers import OptionAShortcut
from irnet_tf.model_config import register_network
from irnet_tf.models.common import LayerFactory, classifier, image_input
import tensorflow as tf


@register_network
def cifar_resnet(
    depth: int,
    *,
    weight_bits: int = 1,
    activation_bits: int = 1,
    structure: str = "bireal",
    num_classes: int = 10,
    input_shape=(32, 32, 3),
    input_tensor=None,
    include_top: bool = True,
    classifier_activation=None,
    padding: str = "same",
    kernel_quantizer=None,
    input_quantizer=None,
    name: str | None = None,
) -> tf.keras.Model:
    """ResNet-20, 32, 44, 56 or 110 for 32x32 images: 16, 32, 64 channels, option-A shortcuts.

    Args:
        depth: Number of layers, 20, 32, 44, 56 or 110.
        structure: Shortcuts, `"bireal"` or `"normal"`.

    The other arguments are explained in `irnet_tf.models`. Height and width may be None. Without
    the top the output is `[batch, height / 4, width / 4, 64]`.
    """
    check_choice("depth", depth, (20, 32, 44, 56, 110))
    check_choice("structure", structure, ("bireal", "normal"))
    make = LayerFactory(
        weight_bits, activation_bits, padding, kernel_quantizer, input_quantizer, "fan_in"
    )
    x, inputs = image_input(input_shape, input_tensor)

    x = make.conv(x, 16, 3, 1, "conv1")
    x = make.batch_norm(x, "bn1")
    if structure == "bireal":
        x = make.activation(x, "nonlinear1")
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in range((depth - 2) // 6):
            strides = 2 if stage > 1 and block == 0 else 1
            prefix = f"layer{stage}.{block}"
            shortcut = x
            if strides > 1:
                shortcut = OptionAShortcut(filters, strides, name=f"{prefix}.shortcut")(x)
            x = _residual_block(make, x, shortcut, filters, strides, structure, prefix)
    if include_top:
        # The authors' 1/32 network has this ReLU.
        relu = structure == "normal" and activation_bits == 32
        x = _head(make, x, num_classes, classifier_activation, "linear", activate=relu)
    return tf.keras.Model(inputs, x, name=name or f"resnet{depth}_{structure}")


@register_network
def resnet(
    depth: int,
    *,
    stem: str = "imagenet",
    weight_bits: int = 1,
    activation_bits: int = 1,
    structure: str = "bireal",
    num_classes: int | None = None,
    input_shape=None,
    input_tensor=None,
    include_top: bool = True,
    classifier_activation=None,
    padding: str = "same",
    kernel_quantizer=None,
    input_quantizer=None,
    name: str | None = None,
) -> tf.keras.Model:
    """ResNet-18 or 34: 64, 128, 256, 512 channels, full-precision 1x1 shortcuts.

    Args:
        depth: Number of layers, 18 or 34.
        stem: First layers, `"imagenet"` (7x7 convolution and 3x3 pooling, both of stride 2; by
            default 224x224 images and 1000 classes) or `"cifar"` (3x3 convolution of stride 1;
            32x32 images and 10 classes).
        structure: Shortcuts, `"bireal"` or `"normal"`.

    The other arguments are explained in `irnet_tf.models`. Height and width may be None. Without
    the top the output has 512 channels and 1/32 of the image's sides, or 1/8 (`"cifar"`).
    """
    check_choice("depth", depth, (18, 34))
    check_choice("stem", stem, ("imagenet", "cifar"))
    check_choice("structure", structure, ("bireal", "normal"))
    make = LayerFactory(weight_bits, activation_bits, padding, kernel_quantizer, input_quantizer)
    imagenet = stem == "imagenet"
    side, default_classes = (224, 1000) if imagenet else (32, 10)
    # Names in the authors' two modules.
    shortcut_name, classifier_name = ("downsample", "fc") if imagenet else ("shortcut", "linear")
    x, inputs = image_input(input_shape or (side, side, 3), input_tensor)

    x = make.conv(x, 64, 7, 2, "conv1") if imagenet else make.conv(x, 64, 3, 1, "conv1")
    x = make.batch_norm(x, "bn1")
    if imagenet or structure == "bireal":
        x = make.activation(x, "nonlinear1")
    if imagenet:
        x = make.max_pool(x, 3, 2, "maxpool")
    counts = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]
    for stage, (filters, count) in enumerate(zip((64, 128, 256, 512), counts), start=1):
        for block in range(count):
            strides = 2 if stage > 1 and block == 0 else 1
            prefix = f"layer{stage}.{block}"
            shortcut = x
            if strides > 1:
                shortcut = make.conv(x, filters, 1, strides, f"{prefix}.{shortcut_name}.0")
                shortcut = make.batch_norm(shortcut, f"{prefix}.{shortcut_name}.1")
            x = _residual_block(make, x, shortcut, filters, strides, structure, prefix)
    if include_top:
        num_classes = default_classes if num_classes is None else num_classes
        x = _head(make, x, num_classes, classifier_activation, classifier_name)
    return tf.keras.Model(inputs, x, name=name or f"resnet{depth}_{structure}")


def _residual_block(make, x, shortcut, filters, strides, structure, prefix):
    x = make.binary_conv(x, filters, strides, f"{prefix}.conv1")
    x = make.batch_norm(x, f"{prefix}.bn1")
    if structure == "bireal":
        x = tf.keras.layers.Add(name=f"{prefix}.add1")([x, shortcut])
    x = make.activation(x, f"{prefix}.nonlinear1")
    if structure == "bireal":
        shortcut = x
    x = make.binary_conv(x, filters, 1, f"{prefix}.conv2")
    x = make.batch_norm(x, f"{prefix}.bn2")
    x = tf.keras.layers.Add(name=f"{prefix}.add2")([x, shortcut])
    return make.activation(x, f"{prefix}.nonlinear2")


def _head(make, x, num_classes, activation, name, activate=False):
    x = tf.keras.layers.GlobalAveragePooling2D(name="avgpool")(x)
    x = make.batch_norm(x, "bn2")
    if activate:
        x = make.activation(x, "nonlinear2")
    return classifier(x, num_classes, activation, name)
