"""What a weights file says of its network: today's files, earlier ones, and strangers'."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import inspect
import json
import math

from irnet_tf._utils import nearest
from irnet_tf.model_config import BUILDERS, ModelConfig
from irnet_tf.preprocessing import CIFAR10, DIGITS, IMAGENET
from irnet_tf.weights import WeightsFile
import larq as lq
import tensorflow as tf
from zoo.registry import info, list_models

# What may differ from the file's without another meaning of the weights that are loaded.
_FREE = (
    "num_classes", "include_top", "input_shape", "input_tensor", "classifier_activation", "name"
)  # fmt: skip
_DEFAULT_QUANTIZERS = {"kernel_quantizer": "libra_pb", "input_quantizer": "ede_sign"}

# Of networks that files ask for: what is larger is refused before memory is given to it.
_LARGEST_NUMBER = 1 << 16
_LARGEST_SIDE = 1024
_LARGEST_IMAGE_AND_CLASSES = 1 << 27  # pixels times classes


def description_of(found: WeightsFile) -> ModelConfig:
    """The description that a file has, or that what an earlier version wrote amounts to.

    Raises:
        ValueError: if the file says nothing of its network; says what is missing.
    """
    if found.description is not None:
        if found.description.builder not in BUILDERS:
            raise ValueError(
                f"{found.path} needs the builder {found.description.builder!r}, which is not "
                f"known; {nearest(found.description.builder, BUILDERS)} One of your own is made "
                "known with irnet_tf.model_config.register_builder"
            )
        return found.description
    facts = found.metadata
    network = facts.get("network")
    if not isinstance(network, str) or network not in list_models():
        missing = "builder, arguments, classes and preprocessing are missing"
        if network is not None:
            missing = f"the zoo knows no {network!r}, and {missing}"
        raise ValueError(
            f"{found.path} does not say what its network is: {missing}. Build the network "
            "yourself and use irnet_tf.weights.load_weights(model, path); what save_weights writes "
            "of a network that zoo.load or a builder of irnet_tf.models made has all that"
        )
    try:
        return _description_of_facts(facts, info(network).description)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{found.path} cannot be read: {error}") from error


def _description_of_facts(facts: Mapping, description: ModelConfig) -> ModelConfig:
    arguments = {**description.arguments, **facts.get("arguments", {})}
    data = facts.get("data") or {}
    classes = data.get("classes")
    if classes is not None:
        arguments.setdefault("num_classes", len(classes))
    preprocessing = description.preprocessing
    if data.get("name"):  # these files were normalised as their data set was
        known = {
            "digits (scikit-learn)": DIGITS, "CIFAR-10": CIFAR10, "CIFAR-10, JPEG copy": CIFAR10
        }.get(data["name"], IMAGENET)  # fmt: skip
        preprocessing = dataclasses.replace(known, size=preprocessing.size, crop=preprocessing.crop)
    if "input_shape" in arguments:
        preprocessing = dataclasses.replace(preprocessing, size=arguments["input_shape"][0])
    names = {"results": ("accuracy", "top5"), "training": ("epoch", "epochs", "ede")}
    parts = {
        part: {name: facts[name] for name in fields if name in facts} or None
        for part, fields in names.items()
    }
    return dataclasses.replace(
        description,
        arguments=arguments,
        classes=classes,
        preprocessing=preprocessing,
        data=data or None,
        seed=facts.get("seed"),
        **parts,
    )


def contradictions(arguments: Mapping, description: ModelConfig) -> list[str]:
    """Where arguments for a builder differ from those that a network was built with.

    Raises:
        ValueError: if the builder has no such argument.
    """
    parameters = inspect.signature(BUILDERS[description.builder]).parameters
    problems = []
    for name, value in arguments.items():
        if name in _FREE:
            continue
        if name not in parameters:
            raise ValueError(
                f"{description.builder} has no argument {name!r}; it has {', '.join(parameters)}"
            )
        default = parameters[name].default
        there = description.arguments.get(name, default)
        if value is None:
            value = default
        own = {} if description.builder.startswith("larq_zoo/") else _DEFAULT_QUANTIZERS
        value, there = (own.get(name) if v is None else v for v in (value, there))
        if _comparable(name, value) != _comparable(name, there):
            problems.append(f"{name} is {there!r} in the file, {value!r} was asked for")
    return problems


def _comparable(name, value):
    if isinstance(value, (list, tuple)):
        return [_comparable("", item) for item in value]
    if not name.endswith("_quantizer"):
        return value
    try:
        quantizer = lq.quantizers.get(value)
        config = quantizer.get_config()
    except (ValueError, TypeError, AttributeError):
        return value  # the builder says what is wrong with it
    config = {key: item for key, item in config.items() if key not in ("name", "t", "metrics")}
    if config.get("channel_axes") == 1:  # as builders' layers have them anyway
        config["channel_axes"] = None
    return type(quantizer).__name__, config


def last_t(description: ModelConfig) -> tuple[float, float]:
    """EDE's `t` of weights and of activations where the training ended, to go on from there."""
    recipe = description.recipe or {}
    if not recipe and description.network in list_models():
        recipe = dataclasses.asdict(info(description.network).recipe)
    end = "max" if (description.training or {}).get("ede", True) else "min"

    def of_recipe(name, otherwise):
        t = recipe.get(name)
        valid = isinstance(t, (int, float)) and not isinstance(t, bool) and 0 < t < math.inf
        return float(t) if valid else otherwise

    t = of_recipe(f"t_{end}", 10.0)
    return t, of_recipe(f"activation_t_{end}", t)


def build_of_file(
    found: WeightsFile, description: ModelConfig, build: Callable[[], tf.keras.Model]
) -> tf.keras.Model:
    """The network that a file describes, which may be a stranger's.

    Raises:
        ValueError: if what the file asks for is out of bounds, or no network comes of it.
    """
    try:
        _check_bounds(description)
        model = build()
        _check_classes(model, description)
    except ValueError as error:
        raise ValueError(f"{found.path}: {error}") from error
    except Exception as error:  # whatever a stranger's description makes Keras raise
        raise ValueError(
            f"{found.path}: no network comes of its description "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    return model


def _check_bounds(description: ModelConfig) -> None:
    numbers = [0]

    def check(name, value):
        if isinstance(value, dict):
            _check_quantizer(name, value)
        elif isinstance(value, (list, tuple)):
            for item in value:
                check(name, item)
        elif isinstance(value, (int, float)):
            numbers.append(abs(value))

    arguments = description.arguments
    for name, value in arguments.items():
        check(name, value)
    if not max(numbers) <= _LARGEST_NUMBER:
        raise ValueError(f"an argument of its network is {max(numbers)}, above {_LARGEST_NUMBER}")
    shape = arguments.get("input_shape") or (224, 224, 3)
    if not isinstance(shape, (list, tuple)) or len(shape) != 3:
        raise ValueError(f"input_shape must be height, width and channels, got {shape!r}")
    sides = [side or 1 for side in shape[:2]]
    if not max(*sides, shape[2] or 1) <= _LARGEST_SIDE:
        raise ValueError(f"input_shape is {shape}, above {_LARGEST_SIDE} a side")
    classes = arguments.get("num_classes") or 1000
    if not math.prod(sides) * classes <= _LARGEST_IMAGE_AND_CLASSES:
        raise ValueError(f"input_shape {shape} with {classes} classes is too large")


def _check_quantizer(name, value):
    """Nothing else is made from an object in a file: Keras would import what it names."""
    kind, config = value.get("class_name"), value.get("config")
    known = {**vars(lq.quantizers), **tf.keras.utils.get_custom_objects()}
    made = known.get(kind) if isinstance(kind, str) else None
    nested = json.dumps(config)[1:-1] if isinstance(config, dict) else "{"
    is_quantizer = isinstance(made, type) and issubclass(made, lq.quantizers.Quantizer)
    if value.keys() != {"class_name", "config"} or not is_quantizer or "{" in nested:
        raise ValueError(f"{name} is {value!r}, which is no quantizer of Larq's or irnet_tf's")


def _check_classes(model, description):
    classes = description.classes
    if classes is not None and description.arguments.get("include_top", True):
        outputs = model.output_shape[-1]
        if len(classes) != outputs and outputs == description.arguments.get("num_classes", outputs):
            raise ValueError(
                f"it names {len(classes)} classes, but its network has {outputs} outputs"
            )
