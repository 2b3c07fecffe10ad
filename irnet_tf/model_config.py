"""`ModelConfig`: a network's builder, classes, preprocessing and results, stored with the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import inspect
import json
import typing

from irnet_tf._compat import Functional, layers_from_zero
from irnet_tf._utils import check_choice, nearest
from irnet_tf.preprocessing import Preprocessing
import larq as lq
from larq.utils import register_keras_custom_object
import tensorflow as tf

BUILDERS: dict[str, Callable[..., tf.keras.Model]] = {}

# Fields that describe the weights. They are None in a network with random weights.
WEIGHTS_FIELDS = (
    "recipe", "data", "seed", "initialized_from", "results", "training",
    "file_sha256", "tensors_sha256",
)  # fmt: skip

# Bounds for numbers in a config, which may come from a file of unknown origin.
_MAX_ARGUMENT, _MAX_NUMBER = 1 << 16, 1 << 53


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that is known about a network. All fields but `builder` are optional.

    Attributes:
        builder: Key of `BUILDERS`, such as `"cifar_resnet"`.
        arguments: Arguments of the builder as JSON types; quantizers by alias or Keras config.
        network: Name in the zoo.
        classes: Class names in the order of the outputs; a list becomes a tuple.
        preprocessing: The network's preprocessing.
        output: `"logits"` or `"probabilities"`.
        classifier: Name of the last layer with one output per class; None without a top.
        recipe, data, seed, training: Facts about the run that trained the weights.
        initialized_from: SHA-256 of the weights file that the run was initialised from, or the
            origin of the weights, such as `"larq-zoo 2.4.0"`.
        results: Accuracies as fractions, and the loss.
        file_sha256, tensors_sha256: SHA-256 of the weights file that the weights were loaded from,
            and of its tensors, from which `save_weights` knows whether the weights have changed.

    Raises:
        ValueError: If a field has the wrong type.
    """

    builder: str
    arguments: dict = dataclasses.field(default_factory=dict)
    network: str | None = None
    classes: tuple | None = None
    preprocessing: Preprocessing | None = None
    output: str = "logits"
    classifier: str | None = None
    recipe: dict | None = None
    data: dict | None = None
    seed: int | None = None
    initialized_from: str | None = None
    results: dict | None = None
    training: dict | None = None
    file_sha256: str | None = dataclasses.field(default=None, compare=False)
    tensors_sha256: str | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self):
        if isinstance(self.classes, list):
            object.__setattr__(self, "classes", tuple(self.classes))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, _types()[field.name]):
                raise ValueError(f"{field.name} must be {field.type}, got {value!r}")
        check_choice("output", self.output, ("logits", "probabilities"))
        if not all(isinstance(name, str) for name in self.classes or ()):
            raise ValueError(f"classes must be names, got {self.classes!r}")

    def build(self, **overrides) -> tf.keras.Model:
        """Builds the network with random weights.

        Args:
            **overrides: Arguments of the builder that replace those of the config.

        Raises:
            ValueError: If the builder is unknown or has no such argument.
        """
        if self.builder not in BUILDERS:
            raise ValueError(
                f"unknown builder {self.builder!r}; {nearest(self.builder, BUILDERS)} Register "
                "your own builder with irnet_tf.model_config.register_builder."
            )
        builder = BUILDERS[self.builder]
        arguments = {**self.arguments, **overrides}
        check_arguments(self.builder, builder, arguments)
        extends = arguments.get("input_tensor") is not None
        with contextlib.nullcontext() if extends else layers_from_zero():
            model = builder(**{name: _quantizer_or_value(v) for name, v in arguments.items()})
        if extends:
            return model  # the config does not describe the layers before input_tensor
        made = get_model_config(model) or ModelConfig(
            self.builder, plain_arguments(arguments), output=self.output, classifier=self.classifier
        )
        changes = {n: getattr(made, n) for n in ("builder", "arguments", "output", "classifier")}
        return set_model_config(model, dataclasses.replace(self, **changes))

    def to_dict(self) -> dict:
        """Returns the config as JSON types, without fields that are None."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values) -> ModelConfig:
        """Reads what `to_dict` returns.

        Raises:
            ValueError: If the values are not those of a model config, or a number is too large.
        """
        if not isinstance(values, dict) or "builder" not in values:
            raise ValueError(f"a model config needs at least a builder, got {values!r}")
        if unknown := sorted(set(values) - set(_types())):
            raise ValueError(f"a model config has {', '.join(_types())}, not {', '.join(unknown)}")
        for name, value in values.items():
            _check_numbers(name, value, _MAX_ARGUMENT if name == "arguments" else _MAX_NUMBER)
        values = dict(values)
        if values.get("preprocessing") is not None:
            values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
        return cls(**values)


@functools.cache
def _types():
    return typing.get_type_hints(ModelConfig)


@register_keras_custom_object
class ConfiguredModel(Functional):
    """A functional Keras model with a model config, which Keras saves, loads and clones with it."""

    model_config: ModelConfig | None = None

    def get_config(self):
        return {**super().get_config(), "model_config": self.model_config.to_dict()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        model_config = ModelConfig.from_dict(config.pop("model_config"))
        return set_model_config(super().from_config(config, custom_objects), model_config)


def get_model_config(model: tf.keras.Model) -> ModelConfig | None:
    """Returns the model's config, or None if it has none."""
    return getattr(model, "model_config", None)


def set_model_config(model: tf.keras.Model, config: ModelConfig) -> tf.keras.Model:
    """Stores the config with the model and returns the model.

    Keras saves, loads and clones the config of a functional model. Another model, such as
    `tf.keras.Sequential`, has it as an attribute only.
    """
    if type(model) is Functional or isinstance(model, ConfiguredModel):
        # An attribute of the class, because clone_model calls the class without a Keras config.
        model.__class__ = type("ConfiguredModel", (ConfiguredModel,), {"model_config": config})
    else:
        model.model_config = config
    return model


def gives_logits(model: tf.keras.Model) -> bool:
    """Returns True if the outputs are logits, by the config or else by the last activation."""
    config = get_model_config(model)
    if config is not None:
        return config.output == "logits"
    return getattr(model.layers[-1], "activation", None) is not tf.keras.activations.softmax


def classes_of(model: tf.keras.Model) -> tuple[str, ...] | int:
    """Returns the model's class names, or the number of outputs if the names are unknown."""
    config = get_model_config(model)
    return (config and config.classes) or model.output_shape[-1]


def register_builder(name: str, function: Callable[..., tf.keras.Model]) -> None:
    """Registers a builder, so that a weights file can name it; another one of its name raises.

    Weights files find layers by name. `ModelConfig.build` numbers layers without a name from zero.
    """
    if BUILDERS.setdefault(name, function) is not function:
        raise ValueError(f"there is a builder {name!r} already; choose another name")


def register_network(builder: Callable[..., tf.keras.Model]) -> Callable[..., tf.keras.Model]:
    """Decorates a builder: registers it and sets the model config of its models."""

    @functools.wraps(builder)
    def build(*args, **kwargs):
        model = builder(*args, **kwargs)
        arguments = inspect.signature(builder).bind(*args, **kwargs).arguments
        if arguments.pop("input_tensor", None) is not None:
            return model  # the config does not describe the layers before input_tensor
        arguments = plain_arguments(arguments)
        logits = arguments.get("classifier_activation") in (None, "linear")
        config = ModelConfig(
            builder.__name__,
            arguments,
            output="logits" if logits else "probabilities",
            classifier=model.layers[-1].name if arguments.get("include_top", True) else None,
        )
        return set_model_config(model, config)

    register_builder(builder.__name__, build)
    return build


def check_arguments(name: str, builder: Callable, arguments: Mapping) -> None:
    """Raises ValueError if the builder lacks one of the arguments."""
    known = inspect.signature(builder).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"{name} has no argument {argument!r}; it has {', '.join(known)}")


def plain_arguments(arguments: Mapping) -> dict:
    """Returns a builder's arguments as JSON types."""

    def plain(value):
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        if hasattr(value, "get_config"):
            # Without what Keras chooses.
            config = {k: v for k, v in value.get_config().items() if k not in ("name", "dtype")}
            return {"class_name": type(value).__name__, "config": config}
        if callable(value):
            return tf.keras.activations.serialize(value)
        json.dumps(value)
        return value

    return {name: plain(value) for name, value in arguments.items()}


def _quantizer_or_value(value):
    """Makes a quantizer from its config. Of other objects Keras would import the class."""
    if not isinstance(value, dict):
        return value
    class_name, config = value.get("class_name"), value.get("config")
    known = {**vars(lq.quantizers), **tf.keras.utils.get_custom_objects()}
    quantizer = known.get(class_name) if isinstance(class_name, str) else None
    is_quantizer = isinstance(quantizer, type) and issubclass(quantizer, lq.quantizers.Quantizer)
    if value.keys() != {"class_name", "config"} or not is_quantizer or not isinstance(config, dict):
        raise ValueError(f"{value!r} is not the config of a quantizer of Larq or irnet_tf")
    return quantizer.from_config(config)


def _check_numbers(name, value, bound):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_numbers(name, item, bound)
    elif isinstance(value, (int, float)) and not -bound <= value <= bound:
        shown = f"{value:g}" if isinstance(value, float) else f"{value.bit_length()} bits"
        raise ValueError(f"{name} holds a number outside +-{bound}: {shown}")
