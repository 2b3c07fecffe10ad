"""Networks from a name of the zoo or a weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import inspect
import os

import irnet_tf
from irnet_tf import weights as weight_files
from irnet_tf.layers import Preprocess
from irnet_tf.model_config import (
    BUILDERS,
    WEIGHTS_FIELDS,
    ModelConfig,
    check_arguments,
    get_model_config,
    plain_arguments,
    set_model_config,
)
import tensorflow as tf
from zoo.download import fetch
from zoo.registry import Entry, info, list_models

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
        **builder_arguments: Arguments of the builder. With trained weights they must equal the
            file's, except for `input_shape`, `input_tensor`, `classifier_activation`, `name`,
            `num_classes` and `include_top`. The last two leave out the classifier's weights.

    Returns:
        A Keras model from `[batch, size, size, 3]` to logits `[batch, num_classes]` (probabilities
        for larq-zoo's networks). `irnet_tf.model_config.get_model_config` gives its config.

    Raises:
        ValueError: If the name is unknown, the network has no trained weights, the file is damaged
            or has no model config, or arguments contradict it.
        OSError: If the file cannot be read or downloaded.
    """
    arguments = builder_arguments
    if class_names is not None:
        arguments = {**arguments, "num_classes": len(class_names)}
    entry, file = _find(name_or_path, weights)
    config = file.model_config if file else entry.config
    if weights is None:
        build = functools.partial(weight_files.build_model, file) if file else config.build
        model = _adapted(build(**arguments), arguments)
    else:
        _check_agreement(config, {**(entry.config.arguments if entry else {}), **arguments})
        if file:
            trained = weight_files.build_model(file)
            weight_files.load_weights(trained, file)
        else:
            trained = entry.pretrained()
        model = _with_arguments(trained, config, arguments)
        irnet_tf.set_ede(model, _last_t(name_or_path, config))
    if class_names is not None:
        config = dataclasses.replace(get_model_config(model), classes=tuple(class_names))
        set_model_config(model, config)
    return _with_preprocessing(model) if include_preprocessing else model


def find_model_config(name_or_path: str | os.PathLike) -> ModelConfig:
    """The model config of a network of the zoo or of a weights file, without building it.

    Raises:
        ValueError, OSError: As `load`.
    """
    has_file = name_or_path not in list_models() or info(name_or_path).weights
    entry, file = _find(name_or_path, "pretrained" if has_file else None)
    return file.model_config if file else entry.config


def _find(name, weights) -> tuple[Entry | None, weight_files.WeightsFile | None]:
    """The entry, unless `name` is a file, and the weights file, if there is one."""
    names = list_models()  # registers the builders, too
    if isinstance(name, os.PathLike) or (
        name not in names and (name.endswith(".safetensors") or os.path.isfile(name))
    ):
        if weights not in ("pretrained", None):
            raise ValueError(f"{name!s} is a weights file already, got a second one: {weights!s}")
        return None, _read(name)
    entry = info(name)
    if weights is None or (weights == "pretrained" and entry.pretrained is not None):
        return entry, None
    if weights == "pretrained":
        if entry.weights is None:
            raise ValueError(
                f"{name!r} has no pretrained weights yet: train it with `python train.py "
                f"--model={name} --data_dir=... --output_dir=...` and pass the path of its "
                "best.safetensors, or pass weights=None"
            )
        weights = fetch(*entry.weights)
    return entry, _read(weights, entry)


def _read(path, entry: Entry | None = None) -> weight_files.WeightsFile:
    """Reads a weights file, which must be of the entry's network if one is given."""
    file = weight_files.read(path)
    config = file.model_config
    if config is None:
        raise ValueError(
            f"{path} has no model config (builder, arguments, classes, preprocessing): build the "
            "network yourself and call irnet_tf.weights.load_weights(model, path)"
        )
    if entry is None or config.network == entry.name:
        return file
    if config.network is not None or config.builder != entry.config.builder:
        raise ValueError(
            f"{path} holds weights of {config.network or config.builder!r}, not of "
            f"{entry.name!r}: load it by its path alone, or pass another file"
        )
    preprocessing = config.preprocessing or entry.preprocessing
    config = dataclasses.replace(config, network=entry.name, preprocessing=preprocessing)
    return dataclasses.replace(file, model_config=config)


def _check_agreement(config: ModelConfig, arguments: Mapping) -> None:
    """Raises ValueError if arguments differ from those that the trained network was built with."""
    if config.builder not in BUILDERS:
        return  # building the network raises the error
    builder = BUILDERS[config.builder]
    check_arguments(config.builder, builder, arguments)
    defaults = {name: p.default for name, p in inspect.signature(builder).parameters.items()}
    if not config.builder.startswith("larq_zoo/"):
        defaults |= _DEFAULT_QUANTIZERS
    for name, value in arguments.items():
        found = config.arguments.get(name)
        found, value = (defaults.get(name) if v is None else v for v in (found, value))
        if name not in _FREE and plain_arguments({"": found}) != plain_arguments({"": value}):
            raise ValueError(
                f"{name} is {found!r} in the file, but {value!r} was passed: leave it out, or pass "
                "another file"
            )


def _with_arguments(trained, config: ModelConfig, arguments: Mapping) -> tf.keras.Model:
    """The network with other arguments and the trained weights, except for a new classifier."""
    source, classes = get_model_config(trained), trained.output_shape[-1]
    same_head = arguments.get("include_top", True)
    same_head = same_head and arguments.get("num_classes", classes) == classes
    if same_head and arguments.keys() <= {*_HEAD}:
        return trained
    model = _adapted(config.build(**arguments), arguments)
    tensor, before = arguments.get("input_tensor"), []
    if tensor is not None and tf.keras.backend.is_keras_tensor(tensor):
        before = tf.keras.Model(tf.keras.utils.get_source_inputs(tensor), tensor).layers
    values = {layer.name: layer.get_weights() for layer in trained.layers}
    for layer in model.layers:
        if layer in before:
            continue
        if not same_head and layer.name == (source.classifier or trained.layers[-1].name):
            break  # the classifier and the layers behind it stay random
        found = values.get(layer.name, [])
        if [value.shape for value in found] != [tuple(w.shape) for w in layer.weights]:
            raise ValueError(
                f"the trained network has no weights for the layer {layer.name!r}: leave out "
                "input_shape, input_tensor or include_top"
            )
        layer.set_weights(found)
    made = get_model_config(model)
    if made is not None:  # None if it is built on an input_tensor
        facts = {"initialized_from": source.file_sha256 or source.initialized_from}
        if same_head:
            facts = {name: getattr(source, name) for name in WEIGHTS_FIELDS}
        set_model_config(model, dataclasses.replace(made, **facts))
    return model


def _adapted(model: tf.keras.Model, arguments: Mapping) -> tf.keras.Model:
    """Removes facts about trained weights from the model config; adapts size and classes."""
    config = get_model_config(model)
    if config is None:
        return model
    changes = dict.fromkeys(WEIGHTS_FIELDS)
    if config.preprocessing is not None and "input_shape" in arguments:
        height, width, channels = model.input_shape[1:]
        size = height or width or config.preprocessing.size
        square = {height, width} <= {size, None} and channels == 3
        changes["preprocessing"] = (
            dataclasses.replace(config.preprocessing, size=size) if square else None
        )
    if config.classes is not None and model.output_shape[1:] != (len(config.classes),):
        changes["classes"] = None
    return set_model_config(model, dataclasses.replace(config, **changes))


def _last_t(source: str | os.PathLike, config: ModelConfig) -> float:
    """EDE's `t` at the end of the run, for further training."""
    end = "t_max" if (config.training or {}).get("ede", True) else "t_min"
    t = (config.recipe or {}).get(end, 10.0)
    if type(t) not in (int, float) or not 0 < t < 1e6:
        raise ValueError(f"{source}: recipe.{end} must be between 0 and 1e6, got {t!r:.50}")
    return float(t)


def _with_preprocessing(model: tf.keras.Model) -> tf.keras.Model:
    """A model of raw images of any size, with the network's model config and weights file."""
    config = get_model_config(model)
    if config is None or config.preprocessing is None:
        raise ValueError(f"{model.name!r} has no preprocessing in its model config")
    images = tf.keras.layers.Input((None, None, 3), name="images")
    x = Preprocess(**config.preprocessing.to_dict(), name="preprocessing")(images)
    return set_model_config(tf.keras.Model(images, model(x), name=model.name), config)
