"""Keras builders of the paper's networks.

All builders have these arguments. The models map `[batch, height, width, channels]` to `[batch,
num_classes]`; an invalid argument raises ValueError.

    weight_bits: Bits of the weights, 1 or 32. The first and last layers are always float.
    activation_bits: Bits of the activations, 1 (Hardtanh) or 32 (ReLU).
    num_classes: Number of outputs.
    input_shape: `(height, width, channels)`.
    input_tensor: Keras tensor that replaces the input.
    include_top: Whether the model has the layers behind the last block.
    classifier_activation: Activation of the dense layer. None: logits.
    padding: Padding at stride 2, `"same"` (TensorFlow's, which Larq Compute Engine supports) or
        `"symmetric"` (PyTorch's).
    kernel_quantizer, input_quantizer: Larq quantizers. None: those of IR-Net.
    name: Name of the model.
"""

from irnet_tf.models.resnet import cifar_resnet, resnet
from irnet_tf.models.vgg import vgg_small

__all__ = ["cifar_resnet", "resnet", "vgg_small"]
