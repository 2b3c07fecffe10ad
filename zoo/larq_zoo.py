"""Networks of larq-zoo 2.4, as baselines and with IR-Net's quantizers.

larq-zoo's factories build them, with a softmax at the end. The accuracies are those that larq-zoo
states for its weights. The recipes are ours: larq-zoo's epochs and batch sizes (for MeliusNet,
which has none there, BinaryDenseNet's), with stochastic gradient descent instead of Adam. They have
no weight decay, because the networks have regularizers. Our preprocessing resizes bilinearly and
antialiased; larq-zoo's is bicubic.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from importlib.metadata import version
import sys

from irnet_tf._compat import layers_from_zero, rename
from irnet_tf.model_config import ModelConfig, plain_arguments, register_builder, set_model_config
from irnet_tf.models.common import fresh_quantizer
from irnet_tf.preprocessing import IMAGENET
from irnet_tf.training import Recipe
import tensorflow as tf
from zoo.registration import register


def _build(
    network: str,
    *,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    input_tensor=None,
    include_top: bool = True,
    kernel_quantizer=None,
    input_quantizer=None,
    name: str | None = None,
) -> tf.keras.Model:
    """A network of larq-zoo with random weights; arguments as those of `irnet_tf.models`.

    `kernel_quantizer` and `input_quantizer` replace the network's own in every layer that has one.
    A new kernel quantizer also removes the kernel constraints.
    """
    input_shape = input_shape and tuple(input_shape)
    quantizers = {"kernel_quantizer": kernel_quantizer, "input_quantizer": input_quantizer}
    quantizers = {key: value for key, value in quantizers.items() if value is not None}
    arguments = {"num_classes": num_classes, "input_shape": input_shape, "include_top": include_top}
    factory = _factory(network, quantizers)
    try:
        model = factory(**arguments, input_tensor=input_tensor, weights=None).build()
    except Exception as error:
        raise ValueError(f"{network} cannot be built with {arguments}: {error}") from error
    if name is not None:
        model = rename(model, name)
        arguments["name"] = name
    if input_tensor is not None:
        return model
    return _with_config(model, network, arguments | quantizers)


def _with_config(model, network, arguments, initialized_from=None):
    classifier = None
    if arguments.get("include_top", True):
        classifier = next(  # the last layer with weights that is not a batch norm
            layer.name
            for layer in reversed(model.layers)
            if layer.weights and not isinstance(layer, tf.keras.layers.BatchNormalization)
        )
    config = ModelConfig(
        f"larq_zoo/{network}",
        plain_arguments(arguments),
        network=f"larq_zoo/{network}",
        preprocessing=IMAGENET,
        output="probabilities" if classifier else "logits",
        classifier=classifier,
        initialized_from=initialized_from,
    )
    return set_model_config(model, config)


def _factory(network: str, quantizers: dict) -> Callable:
    """larq-zoo's factory class, or a subclass with other quantizers."""
    from larq_zoo import literature, sota
    from zookeeper import factory

    function = getattr(literature, network, None) or getattr(sota, network)
    name = "RealToBinNetBNN" if network == "RealToBinaryNet" else network
    found = getattr(sys.modules[function.__module__], f"{name}Factory")
    changes = {}
    for field, quantizer in quantizers.items():
        fresh_quantizer(quantizer)  # raises ValueError for an unknown name
        changes[field] = property(lambda self, quantizer=quantizer: fresh_quantizer(quantizer))
    if "kernel_quantizer" in quantizers:
        changes["kernel_constraint"] = None
    return factory(type(found.__name__, (found,), changes)) if changes else found


def _pretrained(network: str) -> tf.keras.Model:
    """The network with larq-zoo's weights, which larq-zoo downloads."""
    arguments = {"num_classes": 1000, "input_shape": (224, 224, 3)}
    try:
        with layers_from_zero():
            factory = _factory(network, {})
            model = factory(weights="imagenet", **arguments).build()
    except Exception as error:
        raise OSError(
            f"larq-zoo's weights of 'larq_zoo/{network}' cannot be loaded: {error}. Their download "
            "from github.com/larq/zoo needs internet; weights=None gives random ones"
        ) from error
    return _with_config(model, network, arguments, f"larq-zoo {version('larq-zoo')}")


def _register(network, epochs, batch_size, *paper, bits="1/1"):
    name = f"larq_zoo/{network}"
    register_builder(name, functools.partial(_build, network))
    return register(
        name,
        name,
        {},
        Recipe(
            data="imagenet2012",
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=0.1 * batch_size / 256,
            weight_decay=0.0,
            augmentation="imagenet",
            scale_lr_with_batch=True,
        ),
        paper=paper,
        pretrained=functools.partial(_pretrained, network),
        bits=bits,
        output="probabilities",
    )


# Epochs, batch size, top-1 and top-5 accuracy.
BinaryAlexNet = _register("BinaryAlexNet", 150, 512, 0.3630, 0.6153)
BiRealNet = _register("BiRealNet", 300, 512, 0.5747, 0.7984)
BinaryResNetE18 = _register("BinaryResNetE18", 120, 1024, 0.5832, 0.8079)
BinaryDenseNet28 = _register("BinaryDenseNet28", 120, 256, 0.6091, 0.8283)
BinaryDenseNet37 = _register("BinaryDenseNet37", 120, 192, 0.6289, 0.8419)
BinaryDenseNet37Dilated = _register("BinaryDenseNet37Dilated", 80, 256, 0.6434, 0.8515)
BinaryDenseNet45 = _register("BinaryDenseNet45", 125, 384, 0.6459, 0.8521)
DoReFaNet = _register("DoReFaNet", 90, 256, 0.5339, 0.7650, bits="1/2")
MeliusNet22 = _register("MeliusNet22", 120, 256, 0.624, 0.839)
RealToBinaryNet = _register("RealToBinaryNet", 75, 256, 0.6501, 0.8572)
XNORNet = _register("XNORNet", 100, 1200, 0.4496, 0.6918)
QuickNet = _register("QuickNet", 600, 2048, 0.633, 0.846)
QuickNetSmall = _register("QuickNetSmall", 600, 2048, 0.594, 0.818)
QuickNetLarge = _register("QuickNetLarge", 600, 2048, 0.669, 0.870)
