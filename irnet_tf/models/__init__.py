"""Keras builders of the paper's networks."""

from irnet_tf.models.resnet import cifar_resnet, resnet
from irnet_tf.models.vgg import vgg_small

__all__ = ["cifar_resnet", "resnet", "vgg_small"]
