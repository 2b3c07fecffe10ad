"""From a name or a weights file to a network."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os

import irnet_tf
from irnet_tf import weights as weight_files
from irnet_tf.model_config import ModelConfig, get_model_config, set_model_config
from irnet_tf.weights import WeightsFile
import tensorflow as tf
from zoo.fetch import fetch
from zoo.files import build_of_file, contradictions, description_of, last_t
from zoo.inputs import warn_of_raw_images, with_preprocessing
from zoo.registry import Entry, info, list_models

_SUFFIX = ".safetensors"
_HEAD = ("num_classes", "include_top")  # where these differ the classifier begins anew
_OF_WEIGHTS = ("recipe", "data", "seed", "results", "training", "initialized_from")


def load(
    name_or_path: str | os.PathLike,
    weights: str | os.PathLike | None = "pretrained",
    *,
    include_preprocessing: bool = False,
    **builder_arguments,
) -> tf.keras.Model:
    """A network of the zoo, or of a weights file, with its trained weights.

    Args:
        name_or_path: one of `list_models()`; or the path of a weights file, which says itself
            what its network is.
        weights: `"pretrained"`: the zoo's, or those of the file; the path of a weights file of
            this network; or None for new random weights.
        include_preprocessing: whether the model takes images as they are, of any size, uint8 or
            0 to 255; otherwise it takes what `preprocess_input` gives.
        **builder_arguments: for the builder. With trained weights they must agree with the file,
            but for `num_classes` and `include_top` (then all layers but the classifier get their
            weights), `input_shape`, `input_tensor`, `classifier_activation` and `name`.

    Returns:
        A Keras model from `[batch, size, size, 3]` to logits `[batch, num_classes]` (networks of
        larq-zoo give probabilities). `irnet_tf.model_config.describe` says what is known of it.

    Raises:
        ValueError: if the name is not known, the network has no trained weights, the file is
            damaged or says nothing of its network, or arguments contradict it.
        OSError: if the file cannot be read or fetched.
    """
    entry, path = _find(name_or_path, weights)
    if path is not None:
        found = weight_files.read(path)
        description = _of_file(found, entry)
        model = _restore(found, description, builder_arguments)
        irnet_tf.set_ede(model, *last_t(description))
    elif entry is not None and weights is not None:
        model = _of_others(entry, builder_arguments)
    elif entry is None:
        found = weight_files.read(name_or_path)
        description = _of_file(found)
        model = build_of_file(found, description, lambda: _build(description, builder_arguments))
    else:
        model = _build(entry.description, builder_arguments)
    if include_preprocessing:
        return with_preprocessing(model)
    return warn_of_raw_images(model)


def describe_network(name_or_path: str | os.PathLike) -> ModelConfig:
    """What is known of a network of the zoo, or of a weights file, without building it.

    Args:
        name_or_path: as of `load`.

    Raises:
        ValueError, OSError: as `load`.
    """
    entry, path = _find(name_or_path, None if name_or_path in list_models() else "pretrained")
    if entry is not None and entry.weights is not None:
        path = fetch(entry.weights.file, entry.weights.sha256, entry.weights.size)
    return entry.description if path is None else _of_file(weight_files.read(path), entry)


def _find(name, weights) -> tuple[Entry | None, str | os.PathLike | None]:
    """The entry, unless a file is named, and the path of the weights, if any."""
    is_file = isinstance(name, os.PathLike) or (
        name not in list_models() and (name.endswith(_SUFFIX) or os.path.isfile(name))
    )
    if is_file:
        if weights not in ("pretrained", None):
            raise ValueError(
                f"{os.fspath(name)!r} is a weights file already, weights={os.fspath(weights)!r} is "
                "a second one: give one of them"
            )
        return None, None if weights is None else name
    entry = info(name)
    if weights is None:
        return entry, None
    if weights != "pretrained":
        if not os.fspath(weights):
            raise ValueError("weights is empty: give 'pretrained', the path of a file, or None")
        return entry, weights
    if entry.pretrained is not None:
        return entry, None
    if entry.weights is None:
        raise ValueError(
            f"{name!r} has no pretrained weights yet; train it with `python train.py "
            f"--model={name} --data_dir=... --output_dir=...` and pass the path of its "
            "best.safetensors, or pass weights=None for random ones"
        )
    return entry, fetch(entry.weights.file, entry.weights.sha256, entry.weights.size)


def _of_file(found: WeightsFile, entry: Entry | None = None) -> ModelConfig:
    """What a file says of its network, which must be the entry's if one is given."""
    description = description_of(found)
    if entry is None:
        return description
    if description.network is None and description.builder == entry.description.builder:
        _refuse(found.path, entry.arguments, description)  # of the builder, without the zoo
        preprocessing = description.preprocessing or entry.preprocessing
        return dataclasses.replace(description, network=entry.name, preprocessing=preprocessing)
    if description.network != entry.name:
        raise ValueError(
            f"{found.path} holds weights of {description.network or description.builder!r}, not of "
            f"{entry.name!r}: load it by its path alone, or give another file"
        )
    return description


def _refuse(path, arguments, description):
    problems = contradictions(arguments, description)
    if problems:
        raise ValueError(
            f"{path} contradicts what was asked for: {'; '.join(problems)}. Leave that out, or "
            "give a file of such a network"
        )


def _build(description: ModelConfig, arguments: Mapping) -> tf.keras.Model:
    """The network with random weights; its description says what is true of it."""
    model = description.build(**arguments)
    made = get_model_config(model)
    if made is None:
        return model
    changes = dict.fromkeys(_OF_WEIGHTS)
    *sides, channels = model.input_shape[1:]
    if made.preprocessing is not None and "input_shape" in arguments:
        square = len({*sides} - {None}) < 2 and channels == 3  # as preprocessing makes images
        size = sides[0] or made.preprocessing.size
        changes["preprocessing"] = (
            dataclasses.replace(made.preprocessing, size=size) if square else None
        )
    if made.classes is not None and model.output_shape[1:] != (len(made.classes),):
        changes["classes"] = None
    return set_model_config(model, dataclasses.replace(made, **changes))


def _restore(found: WeightsFile, description: ModelConfig, arguments: Mapping) -> tf.keras.Model:
    """The network of a file with its weights, as far as the arguments leave it as it is."""
    _refuse(found.path, arguments, description)

    def restored(arguments):
        model = build_of_file(found, description, lambda: _build(description, arguments))
        weight_files.load_weights(model, found)
        if get_model_config(model) is not None:
            said = {name: getattr(description, name) for name in _OF_WEIGHTS}
            set_model_config(model, dataclasses.replace(get_model_config(model), **said))
            weight_files.remember_loaded(model, found)
        return model

    model = restored({})
    if not _has_head(model, arguments) or arguments.get("input_tensor") is not None:
        return _rebuilt(model, description, arguments, found.sha256)
    body = {name: value for name, value in arguments.items() if name not in _HEAD}
    return restored(body) if body else model


def _of_others(entry: Entry, arguments: Mapping) -> tf.keras.Model:
    """A network with weights that are not ours."""
    _refuse(entry.name, arguments, entry.description)
    model = entry.pretrained()
    changes = {
        "network": entry.name,
        "preprocessing": entry.preprocessing,
        "initialized_from": entry.origin,
    }
    set_model_config(
        model, dataclasses.replace(get_model_config(model) or entry.description, **changes)
    )
    if _has_head(model, arguments) and arguments.keys() <= {*_HEAD}:
        return model
    return _rebuilt(model, entry.description, arguments, entry.origin)


def _has_head(model, arguments):
    """Whether the arguments ask for the head that the model has."""
    classes = model.output_shape[-1]
    return arguments.get("include_top", True) and arguments.get("num_classes", classes) == classes


def _rebuilt(model, description, arguments, initialized_from):
    """The network as the arguments ask for it, with the model's weights."""
    other = _build(description, arguments)
    known = get_model_config(other)  # not of one on an input_tensor
    source = known or get_model_config(model) or description
    top = {**description.arguments, **arguments}.get("include_top", True)
    classifier = source.classifier or (model.layers[-1].name if top else None)
    layers = {layer.name: layer for layer in model.layers}
    in_front = _layers_before(arguments.get("input_tensor"))
    for layer in other.layers:
        if layer in in_front:
            continue
        if layer.name == classifier and not _has_head(model, arguments):
            break  # it and what lies behind it begin anew
        values = layers[layer.name].get_weights() if layer.name in layers else []
        if [v.shape for v in values] != [tuple(w.shape) for w in layer.weights]:
            raise ValueError(
                f"the trained network has no weights for the layer {layer.name!r}: leave out "
                "input_shape, input_tensor or include_top"
            )
        layer.set_weights(values)
    if known is not None:
        set_model_config(other, dataclasses.replace(known, initialized_from=initialized_from))
    return other


def _layers_before(tensor):
    """The layers that a tensor comes from."""
    if tensor is None or not tf.keras.backend.is_keras_tensor(tensor):
        return []
    return tf.keras.Model(tf.keras.utils.get_source_inputs(tensor), tensor).layers
