"""What a network says of itself: data that travels with the model and with its weights file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import inspect
import json

from irnet_tf._compat import layers_from_zero
from irnet_tf._utils import check_choice, nearest
from irnet_tf.preprocessing import Preprocessing
import tensorflow as tf

BUILDERS: dict[str, Callable[..., tf.keras.Model]] = {}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What is known of a network. All but `builder` and `arguments` may be unknown (None).

    Attributes:
        builder: key of `BUILDERS`, such as `"cifar_resnet"`.
        arguments: what the builder was called with, of JSON types (quantizers that are not
            named by a string as Keras configurations).
        network: name in the zoo.
        classes: names of the outputs, in their order.
        preprocessing: what the network expects of an image.
        output: `"logits"` or `"probabilities"`.
        classifier: name of the layer that ends in one number a class; None without a top.
        recipe, data, seed: of the training that made the weights.
        initialized_from: SHA-256 of the weights file that the training began with, or whose weights
            they were, such as `"larq-zoo 2.4.0"`.
        results: accuracies as fractions.
        training: other facts of that training (epoch, precision, ...).

    Raises:
        ValueError: for values of other types.
    """

    builder: str
    arguments: dict
    network: str | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    output: str = "logits"
    classifier: str | None = None
    recipe: dict | None = None
    data: dict | None = None
    seed: int | None = None
    initialized_from: str | None = None
    results: dict | None = None
    training: dict | None = None

    def __post_init__(self):
        def require(name, kind, optional=True):
            value = getattr(self, name)
            if not (isinstance(value, kind) or (optional and value is None)):
                raise ValueError(f"{name} must be {kind.__name__}, got {value!r}")

        require("builder", str, optional=False)
        require("arguments", dict, optional=False)
        for name in ("network", "classifier", "initialized_from"):
            require(name, str)
        for name in ("recipe", "data", "results", "training"):
            require(name, dict)
        require("seed", int)
        require("preprocessing", Preprocessing)
        check_choice("output", self.output, ("logits", "probabilities"))
        if self.classes is not None:
            classes = self.classes
            if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
                raise ValueError(f"classes must be names of classes, got {classes!r}")
            object.__setattr__(self, "classes", tuple(classes))

    def build(self, **overrides) -> tf.keras.Model:
        """The network anew, with random weights.

        Args:
            **overrides: arguments that take the place of the description's.

        Raises:
            ValueError: if the builder is not known, or does not have such an argument.
        """
        if self.builder not in BUILDERS:
            raise ValueError(
                f"unknown builder {self.builder!r}; {nearest(self.builder, BUILDERS)} A builder of "
                "your own is made known with irnet_tf.model_config.register_builder"
            )
        arguments = {**self.arguments, **overrides}
        builder = BUILDERS[self.builder]
        check_arguments(self.builder, builder, arguments)
        own = arguments.get("input_tensor") is None
        with layers_from_zero() if own else contextlib.nullcontext():
            model = builder(**{name: _revive(value) for name, value in arguments.items()})
        made = get_model_config(model)
        if arguments.get("input_tensor") is not None:
            return model  # what lies before it is not ours to describe
        if made is None:
            return set_model_config(
                model, dataclasses.replace(self, arguments=plain_arguments(arguments))
            )
        changes = {
            field.name: getattr(made, field.name)
            for field in dataclasses.fields(self)
            if field.name in ("builder", "arguments", "output", "classifier")
        }
        return set_model_config(model, dataclasses.replace(self, **changes))

    def to_dict(self) -> dict:
        """Of JSON types; what is unknown is left out."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        if self.preprocessing is not None:
            values["preprocessing"] = self.preprocessing.to_dict()
        if self.classes is not None:
            values["classes"] = list(self.classes)
        return values

    @classmethod
    def from_dict(cls, values) -> ModelConfig:
        """What `to_dict` gave.

        Raises:
            ValueError: if it is not that; says what is wrong.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or not {"builder", "arguments"} <= set(values):
            raise ValueError(f"a description needs at least builder and arguments, got {values!r}")
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise ValueError(f"a description has {', '.join(names)}, not {', '.join(unknown)}")
        values = dict(values)
        if values.get("preprocessing") is not None:
            values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
        return cls(**values)


def get_model_config(model: tf.keras.Model) -> ModelConfig | None:
    """The description that travels with a model; None if there is none.

    A clone (`tf.keras.models.clone_model`) or a model that Keras loaded has none: `attach` one.
    """
    return getattr(model, "_irnet_tf_description", None)


def classes_of(model: tf.keras.Model) -> tuple[str, ...] | int:
    """Names of a model's outputs, in their order; how many there are if they are not known."""
    description = get_model_config(model)
    return (description and description.classes) or model.output_shape[-1]


def gives_logits(model: tf.keras.Model) -> bool:
    """Whether the outputs are logits: by the model config, else by the last activation."""
    config = get_model_config(model)
    if config is not None:
        return config.output == "logits"
    return getattr(model.layers[-1], "activation", None) is not tf.keras.activations.softmax


def set_model_config(model: tf.keras.Model, description: ModelConfig) -> tf.keras.Model:
    """Let the description travel with the model. Returns the model."""
    object.__setattr__(model, "_irnet_tf_description", description)  # hidden from Keras's tracking
    return model


def register_builder(name: str, function: Callable[..., tf.keras.Model]) -> None:
    """Make a builder known, so that a weights file can name it.

    A file finds layers by their names. Those without one are numbered by Keras over a whole
    process, but from zero wherever this project calls a builder: name them, or let it call.

    Raises:
        ValueError: if another one has the name.
    """
    if BUILDERS.setdefault(name, function) is not function:
        raise ValueError(f"there is a builder {name!r} already; choose another name")


def register_network(*, classifier: str | Callable[[dict], str]) -> Callable:
    """Decorates a builder: what it makes carries a description, and it is registered.

    Args:
        classifier: the classifier's name, or a function of the builder's arguments that gives it.
    """

    def decorate(builder):
        @functools.wraps(builder)
        def build(*args, **kwargs):
            model = builder(*args, **kwargs)
            arguments = inspect.signature(builder).bind(*args, **kwargs).arguments
            if arguments.pop("input_tensor", None) is not None:
                return model  # what lies before it is not ours to describe
            activation = arguments.get("classifier_activation")
            if callable(activation):  # as a name, so that it can be read again
                activation = tf.keras.activations.serialize(activation)
                arguments["classifier_activation"] = activation
            top = arguments.get("include_top", True)
            name = classifier(arguments) if callable(classifier) else classifier
            return set_model_config(
                model,
                ModelConfig(
                    builder.__name__,
                    plain_arguments(arguments),
                    output="logits" if activation in (None, "linear") else "probabilities",
                    classifier=name if top else None,
                ),
            )

        register_builder(builder.__name__, build)
        return build

    return decorate


def check_arguments(name: str, builder: Callable, arguments: Mapping) -> None:
    """Raises ValueError if the builder has no such arguments; says which it has."""
    known = inspect.signature(builder).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"{name} has no argument {argument!r}; it has {', '.join(known)}")


def nameless(value):
    """A quantizer's config without `name` and `dtype`, which Keras sets; other values unchanged."""
    if not isinstance(value, Mapping) or not {"class_name", "config"} <= set(value):
        return value
    config = {k: v for k, v in value["config"].items() if k not in ("name", "dtype")}
    return {**value, "config": config}


def plain_arguments(arguments: Mapping) -> dict:
    """Arguments as JSON types."""

    def plain(name, value):
        if isinstance(value, (tuple, list)):
            return [plain(name, item) for item in value]
        if isinstance(value, (str, int, float, bool, dict, type(None))):
            json.dumps(value)
            return value
        if hasattr(value, "get_config"):
            return nameless({"class_name": type(value).__name__, "config": value.get_config()})
        return tf.keras.utils.serialize_keras_object(value)

    return {name: plain(name, value) for name, value in arguments.items()}


def _revive(value):
    """The other way round, as far as builders do not do it themselves."""
    if isinstance(value, dict) and set(value) >= {"class_name", "config"}:
        import larq as lq

        return lq.quantizers.get(value)
    return value
