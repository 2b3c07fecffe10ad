"""Networks of larq-zoo 2.4, as baselines and as IR-Net versions of themselves.

They are built by larq-zoo's own factories and end in a softmax. The accuracies are those that
larq-zoo states of its weights. Ours are the recipes: larq-zoo's epochs and batch sizes
(for MeliusNet, which has none there, BinaryDenseNet's), with stochastic gradient descent where it
has Adam. Their regularizers are part of the loss, so the
recipes have no weight decay of their own. Our preprocessing resizes bilinearly and antialiased;
larq-zoo's is bicubic.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import functools
import importlib
import urllib.error

from irnet_tf._compat import layers_from_zero, rename
from irnet_tf.model_config import ModelConfig, plain_arguments, register_builder, set_model_config
from irnet_tf.models.common import fresh_quantizer
from irnet_tf.preprocessing import IMAGENET
from irnet_tf.training import Recipe
import tensorflow as tf
from zoo.registration import register


def build(
    factory: str,
    *,
    num_classes: int = 1000,
    input_shape=(224, 224, 3),
    input_tensor=None,
    include_top: bool = True,
    kernel_quantizer=None,
    input_quantizer=None,
    name: str | None = None,
    weights: str | None = None,
) -> tf.keras.Model:
    """A network of larq-zoo.

    Args:
        factory: `"MODULE:CLASS"` in larq-zoo.
        num_classes: length of the output.
        input_shape: `(height, width, 3)`.
        input_tensor: Keras tensor to build on instead of a new input.
        include_top: whether the classifier is there.
        kernel_quantizer, input_quantizer: any Larq quantizer instead of the network's own, in
            every layer that has one. The network's constraint of its weights, which belongs to
            its own kernel quantizer, then goes.
        name: of the model.
        weights: None, or `"imagenet"`: larq-zoo downloads them.

    Returns:
        A Keras model from `[batch, height, width, 3]` to probabilities `[batch, num_classes]`.
        Layers are numbered from 0, so that names depend on the network alone.

    Raises:
        ValueError: for an argument outside what is said above.
        OSError: if the weights cannot be downloaded.
    """
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise ValueError(f"num_classes must be a positive integer, got {num_classes!r}")
    if input_shape is not None and (len(tuple(input_shape)) != 3 or tuple(input_shape)[2] != 3):
        raise ValueError(f"input_shape must be (height, width, 3), got {input_shape!r}")
    made = _factory(factory, kernel_quantizer, input_quantizer)(
        num_classes=num_classes,
        input_shape=input_shape and tuple(input_shape),
        input_tensor=input_tensor,
        include_top=include_top,
        weights=weights,
    )
    # Keras numbers layers over a whole process; a weights file needs names of the network's own.
    numbering = contextlib.nullcontext() if input_tensor is not None else layers_from_zero()
    try:
        with numbering:
            model = made.build()
    except (urllib.error.URLError, ConnectionError) as error:
        raise OSError(str(error)) from error
    except Exception as error:
        if "fetch failure" in str(error).lower():  # as Keras's get_file says it
            raise OSError(str(error)) from error
        if input_shape == (224, 224, 3):
            raise
        raise ValueError(
            f"{factory.split(':')[1]} cannot be built for input_shape {input_shape!r}: {error}"
        ) from error
    return model if name is None else rename(model, name)


def _factory(path: str, kernel_quantizer, input_quantizer) -> Callable:
    """larq-zoo's factory class, or one like it with other quantizers."""
    from zookeeper import factory

    module, name = path.split(":")
    found = getattr(importlib.import_module(f"larq_zoo.{module}"), name)
    changes = {}
    for field, quantizer in (
        ("kernel_quantizer", kernel_quantizer),
        ("input_quantizer", input_quantizer),
    ):
        if quantizer is not None:
            fresh_quantizer(quantizer)  # a wrong name is told before anything is built
            changes[field] = property(lambda self, quantizer=quantizer: fresh_quantizer(quantizer))
    if kernel_quantizer is not None:
        changes["kernel_constraint"] = None
    return factory(type(found.__name__, (found,), changes)) if changes else found


def _classifier(model: tf.keras.Model) -> str:
    """The last layer that computes one number a class."""
    return next(
        layer.name
        for layer in reversed(model.layers)
        if layer.weights and not isinstance(layer, tf.keras.layers.BatchNormalization)
    )


def _register(name, factory, epochs, batch_size, paper, bits="1/1"):
    builder = f"larq_zoo/{name}"

    def described(model, arguments):
        top = arguments.get("include_top", True)
        return set_model_config(
            model,
            ModelConfig(
                builder,
                plain_arguments(arguments),
                output="probabilities" if top else "logits",
                classifier=_classifier(model) if top else None,
            ),
        )

    @functools.wraps(build)
    def build_it(
        *,
        num_classes=1000,
        input_shape=(224, 224, 3),
        input_tensor=None,
        include_top=True,
        kernel_quantizer=None,
        input_quantizer=None,
        name=None,
    ):
        given = dict(locals())
        model = build(factory, **{k: v for k, v in given.items() if k in _ARGUMENTS})
        if input_tensor is not None:
            return model
        defaults = _ARGUMENTS
        arguments = {k: given[k] for k in defaults if given[k] != defaults[k]}
        arguments.pop("input_tensor", None)
        return described(model, arguments)

    del build_it.__wrapped__  # its signature is its own
    build_it.__name__ = build_it.__qualname__ = name
    register_builder(builder, build_it)

    def pretrained() -> tf.keras.Model:
        try:
            return described(build(factory, weights="imagenet"), {})
        except OSError as error:
            raise OSError(
                f"larq-zoo's weights of {builder!r} cannot be downloaded from "
                f"github.com/larq/zoo: {error}. They need internet; weights=None gives random ones"
            ) from error

    return register(
        builder,
        build_it,
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
        preprocessing=IMAGENET,
        paper=paper,
        pretrained=pretrained,
        bits=bits,
        output="probabilities",
    )


_ARGUMENTS = {
    "num_classes": 1000,
    "input_shape": (224, 224, 3),
    "input_tensor": None,
    "include_top": True,
    "kernel_quantizer": None,
    "input_quantizer": None,
    "name": None,
}

BinaryAlexNet = _register(
    "BinaryAlexNet", "literature.binary_alex_net:BinaryAlexNetFactory", 150, 512, (0.3630, 0.6153)
)
BiRealNet = _register(
    "BiRealNet", "literature.birealnet:BiRealNetFactory", 300, 512, (0.5747, 0.7984)
)
BinaryResNetE18 = _register(
    "BinaryResNetE18", "literature.resnet_e:BinaryResNetE18Factory", 120, 1024, (0.5832, 0.8079)
)
BinaryDenseNet28 = _register(
    "BinaryDenseNet28", "literature.densenet:BinaryDenseNet28Factory", 120, 256, (0.6091, 0.8283)
)
BinaryDenseNet37 = _register(
    "BinaryDenseNet37", "literature.densenet:BinaryDenseNet37Factory", 120, 192, (0.6289, 0.8419)
)
BinaryDenseNet37Dilated = _register(
    "BinaryDenseNet37Dilated",
    "literature.densenet:BinaryDenseNet37DilatedFactory",
    80,
    256,
    (0.6434, 0.8515),
)
BinaryDenseNet45 = _register(
    "BinaryDenseNet45", "literature.densenet:BinaryDenseNet45Factory", 125, 384, (0.6459, 0.8521)
)
DoReFaNet = _register(
    "DoReFaNet", "literature.dorefanet:DoReFaNetFactory", 90, 256, (0.5339, 0.7650), "1/2"
)
MeliusNet22 = _register(
    "MeliusNet22", "literature.meliusnet:MeliusNet22Factory", 120, 256, (0.624, 0.839)
)
RealToBinaryNet = _register(
    "RealToBinaryNet",
    "literature.real_to_bin_nets:RealToBinNetBNNFactory",
    75,
    256,
    (0.6501, 0.8572),
)
XNORNet = _register("XNORNet", "literature.xnornet:XNORNetFactory", 100, 1200, (0.4496, 0.6918))
QuickNet = _register("QuickNet", "sota.quicknet:QuickNetFactory", 600, 2048, (0.633, 0.846))
QuickNetSmall = _register(
    "QuickNetSmall", "sota.quicknet:QuickNetSmallFactory", 600, 2048, (0.594, 0.818)
)
QuickNetLarge = _register(
    "QuickNetLarge", "sota.quicknet:QuickNetLargeFactory", 600, 2048, (0.669, 0.870)
)
