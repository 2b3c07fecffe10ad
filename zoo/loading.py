"""Networks from a name of the zoo or a weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import inspect
import os

import irnet_tf
from irnet_tf import weights as weight_files
from irnet_tf._utils import nearest
from irnet_tf.layers import Preprocess
from irnet_tf.model_config import (
    BUILDERS,
    WEIGHTS_FIELDS,
    ModelConfig,
    check_arguments,
    get_model_config,
    set_model_config,
)
from irnet_tf.weights import WeightsFile
import tensorflow as tf
from zoo.download import fetch
from zoo.registry import Entry, comparable_argument, info, list_models

_HEAD = ("num_classes", "include_top")  # a difference in these makes a new classifier
# Arguments that may differ from the file's without changing the meaning of its weights.
_FREE = (*_HEAD, "input_shape", "input_tensor", "classifier_activation", "name")
_DEFAULT_QUANTIZERS = {"kernel_quantizer": "libra_pb", "input_quantizer": "ede_sign"}


def load(
    name_or_path: str | os.PathLike,
    weights: str | os.PathLike | None = "pretrained",
    *,
    include_preprocessing: bool = False,
    class_names: Sequence[str] | None = None,
    **builder_arguments,
) -> tf.keras.Model:
    """A network of the zoo or of a weights file, with its trained weights.

    Args:
        name_or_path: Name in `list_models()`, or path of a weights file.
        weights: `"pretrained"`: the zoo's weights, or those of the file; path of a weights file of
            this network; None: new random weights.
        include_preprocessing: Whether the model takes raw images of any size, uint8 or 0 to 255,
            instead of the output of `preprocess_input`.
        class_names: Names of the classes to fine-tune on, such as `irnet_tf.data.Data.class_names`.
            They set `num_classes` and are saved with the model.
        **builder_arguments: Arguments of the builder. With trained weights they must agree with
            the file, except for `num_classes` and `include_top` (all layers but the classifier get
            their weights), `input_shape`, `input_tensor`, `classifier_activation` and `name`.

    Returns:
        A Keras model from `[batch, size, size, 3]` to logits `[batch, num_classes]` (probabilities
        for larq-zoo's networks). `irnet_tf.model_config.get_model_config` gives its config.

    Raises:
        ValueError: If the name is unknown, the network has no trained weights, the file is damaged
            or has no model config, or arguments contradict it.
        OSError: If the file cannot be read or downloaded.
    """
    entry, path = _find(name_or_path, weights)
    if class_names is not None:
        builder_arguments = {**builder_arguments, "num_classes": len(class_names)}
    if path is not None:
        file = weight_files.read(path)
        config = _config_of(file, entry)
        model = _restore(file, config, builder_arguments)
        irnet_tf.set_ede(model, _last_t(file.path, config))
    elif entry is None:
        file = weight_files.read(name_or_path)
        _config_of(file)
        model = weight_files.build_model(file, **builder_arguments)
        model = _adapted(model, builder_arguments)
    elif weights is None:
        model = _adapted(entry.config.build(**builder_arguments), builder_arguments)
    else:
        model = _of_larq_zoo(entry, builder_arguments)
    if class_names is not None:
        config = dataclasses.replace(get_model_config(model), classes=tuple(class_names))
        set_model_config(model, config)
    return _with_preprocessing(model) if include_preprocessing else model


def find_model_config(name_or_path: str | os.PathLike) -> ModelConfig:
    """The model config of a network of the zoo or of a weights file, without building it.

    Args:
        name_or_path: Name in `list_models()`, or path of a weights file.

    Raises:
        ValueError, OSError: As `load`.
    """
    entry, path = _find(name_or_path, None if name_or_path in list_models() else "pretrained")
    if entry is not None and entry.weights is not None:
        path = fetch(entry.weights.file, entry.weights.sha256, entry.weights.size)
    return entry.config if path is None else _config_of(weight_files.read(path), entry)


def _with_preprocessing(model: tf.keras.Model) -> tf.keras.Model:
    """A model of raw images of any size, with the network's model config and weights file."""
    config = get_model_config(model)
    if config is None or config.preprocessing is None:
        raise ValueError(f"{model.name!r} has no preprocessing in its model config")
    images = tf.keras.layers.Input((None, None, 3), name="images")
    x = Preprocess(**config.preprocessing.to_dict(), name="preprocessing")(images)
    return set_model_config(tf.keras.Model(images, model(x), name=model.name), config)


def _find(name, weights) -> tuple[Entry | None, str | os.PathLike | None]:
    """The entry, unless `name` is a file, and the path of the weights, if any."""
    names = list_models()  # registers the builders, too
    if isinstance(name, os.PathLike) or (
        name not in names and (name.endswith(".safetensors") or os.path.isfile(name))
    ):
        if weights not in ("pretrained", None):
            raise ValueError(
                f"{os.fspath(name)!r} is a weights file already, got a second one in weights: "
                f"{os.fspath(weights)!r}"
            )
        return None, None if weights is None else name
    entry = info(name)
    if weights is None or (weights == "pretrained" and entry.pretrained is not None):
        return entry, None
    if weights != "pretrained":
        if not os.fspath(weights):
            raise ValueError("weights is empty: pass 'pretrained', the path of a file, or None")
        return entry, weights
    if entry.weights is None:
        raise ValueError(
            f"{name!r} has no pretrained weights yet: train it with `python train.py "
            f"--model={name} --data_dir=... --output_dir=...` and pass the path of its "
            "best.safetensors, or pass weights=None"
        )
    return entry, fetch(entry.weights.file, entry.weights.sha256, entry.weights.size)


def _config_of(file: WeightsFile, entry: Entry | None = None) -> ModelConfig:
    """The model config of a file, which must be of the entry's network if one is given."""
    config = file.model_config
    if config is None:
        raise ValueError(
            f"{file.path} has no model config (builder, arguments, classes, preprocessing): build "
            "the network yourself and use irnet_tf.weights.load_weights(model, path)"
        )
    if config.builder not in BUILDERS:
        raise ValueError(
            f"{file.path} needs the builder {config.builder!r}; register it with "
            f"irnet_tf.model_config.register_builder ({nearest(config.builder, BUILDERS)})"
        )
    if entry is None or config.network == entry.name:
        return config
    if config.network is None and config.builder == entry.config.builder:
        _check_arguments(file.path, entry.arguments, config)
        preprocessing = config.preprocessing or entry.preprocessing
        return dataclasses.replace(config, network=entry.name, preprocessing=preprocessing)
    raise ValueError(
        f"{file.path} holds weights of {config.network or config.builder!r}, not of "
        f"{entry.name!r}: load it by its path alone, or pass another file"
    )


def _check_arguments(source, arguments: Mapping, config: ModelConfig) -> None:
    """Raises ValueError if arguments differ from those that a network was built with."""
    builder = BUILDERS[config.builder]
    check_arguments(config.builder, builder, arguments)
    parameters = inspect.signature(builder).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    if not config.builder.startswith("larq_zoo/"):
        defaults |= _DEFAULT_QUANTIZERS
    problems = []
    for name, value in arguments.items():
        found = config.arguments.get(name)
        found, value = (defaults[name] if v is None else v for v in (found, value))
        if name not in _FREE and comparable_argument(name, found) != comparable_argument(
            name, value
        ):
            problems.append(f"{name} is {found!r} in the file, but {value!r} was passed")
    if problems:
        raise ValueError(
            f"{source} contradicts the arguments: {'; '.join(problems)}. Leave them out, or pass "
            "another file"
        )


def _last_t(path: str, config: ModelConfig) -> float:
    """EDE's `t` at the end of the run, for further training."""
    end = "t_max" if (config.training or {}).get("ede", True) else "t_min"
    t = (config.recipe or {}).get(end, 10.0)
    if not isinstance(t, (int, float)) or isinstance(t, bool) or not 0 < t < 1e6:
        raise ValueError(f"{path}: recipe.{end} must be between 0 and 1e6, got {t!r:.50}")
    return float(t)


def _adapted(model: tf.keras.Model, arguments: Mapping) -> tf.keras.Model:
    """Removes facts about trained weights from the model config; adapts size and classes."""
    made = get_model_config(model)
    if made is None:
        return model
    changes = dict.fromkeys(WEIGHTS_FIELDS)
    if made.preprocessing is not None and "input_shape" in arguments:
        height, width, channels = model.input_shape[1:]
        size = height or width or made.preprocessing.size
        square = {height, width} <= {size, None} and channels == 3
        changes["preprocessing"] = (
            dataclasses.replace(made.preprocessing, size=size) if square else None
        )
    if made.classes is not None and model.output_shape[1:] != (len(made.classes),):
        changes["classes"] = None
    return set_model_config(model, dataclasses.replace(made, **changes))


def _restore(file: WeightsFile, config: ModelConfig, arguments: Mapping) -> tf.keras.Model:
    """The network of a file with its weights, except for layers that the arguments change."""
    _check_arguments(file.path, arguments, config)

    def restored(arguments):
        model = _adapted(weight_files.build_model(file, **arguments), arguments)
        weight_files.load_weights(model, file)
        made = get_model_config(model)
        if made is not None:
            facts = {name: getattr(config, name) for name in WEIGHTS_FIELDS}
            set_model_config(model, dataclasses.replace(made, **facts))
        return model

    model = restored({})
    if not _same_head(model, arguments) or arguments.get("input_tensor") is not None:
        return _transfer(model, config, arguments, file.sha256)
    body = {name: value for name, value in arguments.items() if name not in _HEAD}
    return restored(body) if body else model


def _of_larq_zoo(entry: Entry, arguments: Mapping) -> tf.keras.Model:
    """A network with larq-zoo's weights."""
    _check_arguments(entry.name, arguments, entry.config)
    model = entry.pretrained()
    config = dataclasses.replace(
        get_model_config(model),
        network=entry.name,
        preprocessing=entry.preprocessing,
        initialized_from=entry.origin,
    )
    set_model_config(model, config)
    if _same_head(model, arguments) and arguments.keys() <= {*_HEAD}:
        return model
    return _transfer(model, entry.config, arguments, entry.origin)


def _same_head(model, arguments):
    classes = model.output_shape[-1]
    return arguments.get("include_top", True) and arguments.get("num_classes", classes) == classes


def _transfer(model, config, arguments, initialized_from):
    """The network that the arguments describe, with the model's weights up to the classifier."""
    other = _adapted(config.build(**arguments), arguments)
    made = get_model_config(other)  # None if it is built on an input_tensor
    classifier = (made or get_model_config(model) or config).classifier
    if classifier is None and {**config.arguments, **arguments}.get("include_top", True):
        classifier = model.layers[-1].name
    layers = {layer.name: layer for layer in model.layers}
    tensor, before = arguments.get("input_tensor"), []
    if tensor is not None and tf.keras.backend.is_keras_tensor(tensor):
        before = tf.keras.Model(tf.keras.utils.get_source_inputs(tensor), tensor).layers
    for layer in other.layers:
        if layer in before:
            continue
        if layer.name == classifier and not _same_head(model, arguments):
            break  # the classifier and the layers behind it stay random
        values = layers[layer.name].get_weights() if layer.name in layers else []
        if [v.shape for v in values] != [tuple(w.shape) for w in layer.weights]:
            raise ValueError(
                f"the trained network has no weights for the layer {layer.name!r}: leave out "
                "input_shape, input_tensor or include_top"
            )
        layer.set_weights(values)
    if made is not None:
        set_model_config(other, dataclasses.replace(made, initialized_from=initialized_from))
    return other
