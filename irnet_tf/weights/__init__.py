"""1-bit weights files: a network in `safetensors` format, with one bit per binary weight.

Tensors are named `LAYER.SUFFIX`, with the layer names of the model:

    LAYER.kernel_1bit   uint8 [channels, 1 + ceil(n / 8)]: kernel of a convolution or dense layer
                        that `LibraPB` quantizes. A row is an output channel: the exponent s as a
                        signed byte, then the signs of its n weights, row-major over the other axes
                        of the kernel, first bit highest, 1 for +1, padded with 0.
    LAYER.batch_norm    float32 [4, channels]: gamma, beta, moving mean, moving variance.
    LAYER.VARIABLE      float32 with the shape of the variable: everything else (`fc.kernel`,
                        `fc.bias`), including kernels with another quantizer or none.
    latent_std          float32 [1-bit layers, sorted by name]: see below.

The output of a binary network depends on its latent weights only through the bits and s. The file
does not hold latent weights; `load_weights` computes new ones (`bits.latent_weights`). `latent_std`
is the root mean square, over output channels, of the standard deviation of the latent weights. The
outputs do not depend on it, but gradients scale with its inverse; it keeps their size for further
training.

The metadata of the header has one entry, `irnet_tf`, a JSON object with `sha256`,
`format_version` and, if the model has one, `model_config`. `sha256` is the first key. It is the
digest of the whole file with these 64 digits replaced by zeros, so every changed byte is found.
Equal weights give byte-identical files. Files contain no executable code.
"""

from __future__ import annotations

import dataclasses
import math
import os

from irnet_tf._utils import write_atomically
from irnet_tf.model_config import WEIGHTS_FIELDS, ModelConfig, get_model_config
from irnet_tf.weights import bits, file
from irnet_tf.weights.file import FORMAT_VERSION, MAX_BYTES, WeightsFile, read
import numpy as np
import tensorflow as tf

__all__ = [
    "FORMAT_VERSION",
    "MAX_BYTES",
    "WeightsFile",
    "build_model",
    "load_weights",
    "packed_size",
    "read",
    "save_weights",
]


def save_weights(model: tf.keras.Model, path: str | os.PathLike) -> None:
    """Writes the model's weights and model config to a 1-bit weights file, atomically.

    If the weights were loaded from a file and have changed since, the fields that describe the old
    weights (recipe, data, results) are left out.

    Args:
        model: Built Keras model. Weights that are not 1-bit are rounded to float32.
        path: Path of the file in an existing folder.

    Raises:
        ValueError: If a weight is not finite or the model config has other than JSON types.
        OSError: If the file cannot be written.
    """
    tensors, stds = {}, []
    for name, stored in sorted(bits.stored_tensors(model).items()):
        values = tf.keras.backend.batch_get_value(stored.variables)
        if stored.quantizer:
            tensors[name], std = bits.pack(name, stored, values[0])
            stds.append(std)
        else:
            tensors[name] = np.stack(values).astype(np.float32).reshape(stored.shape)
    if stds:
        tensors["latent_std"] = np.array(stds, np.float32)
    write_atomically(path, file.to_bytes(tensors, _current_config(model, tensors)))


def build_model(weights_file: WeightsFile, **overrides) -> tf.keras.Model:
    """Builds the network of a weights file with random weights.

    It rejects a network that is much larger than the file's tensors, before it is built.

    Args:
        weights_file: File as returned by `read`.
        **overrides: Arguments of the builder that replace those of the file.

    Raises:
        ValueError: If the file has no model config, or no network of this size results from it.
    """
    config = weights_file.model_config
    if config is None:
        raise ValueError(
            f"{weights_file.path} has no model config (builder, classes, preprocessing): build the "
            "network yourself and call irnet_tf.weights.load_weights(model, path)"
        )
    # An element holds at most 8 weights; 2**25 leaves room for another classifier.
    budget = 2**25 + 8 * sum(tensor.size for tensor in weights_file.tensors.values())

    def limited(next_creator, **kwargs):
        nonlocal budget
        budget -= tf.TensorShape(kwargs.get("shape")).num_elements() or 1
        if budget < 0:
            raise ValueError("the network is much larger than the tensors of the file")
        return next_creator(**kwargs)

    try:
        with tf.variable_creator_scope(limited):
            model = config.build(**overrides)
        outputs, classes = model.output_shape[-1], config.classes
        if not overrides and classes and config.classifier and len(classes) != outputs:
            raise ValueError(f"{len(classes)} class names, but the network has {outputs} outputs")
    except Exception as error:  # an unknown builder or hostile arguments can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{weights_file.path}: cannot build its network: {reason}") from error
    return model


def load_weights(
    model: tf.keras.Model,
    path: str | os.PathLike | WeightsFile,
    *,
    skip_classifier: bool = False,
) -> WeightsFile:
    """Sets the model's weights from a 1-bit weights file, or none of them if anything is wrong.

    Libra-PB quantizes the new latent weights to exactly the values in the file.

    Args:
        model: Built Keras model.
        path: Path of the file, or the file as returned by `read`.
        skip_classifier: Keep the model's own classifier, which may have another `num_classes`.

    Returns:
        The content of the file.

    Raises:
        ValueError: If the file is damaged or belongs to another network.
        OSError: If the file cannot be read.
    """
    weights_file = path if isinstance(path, WeightsFile) else read(path)
    tensors = dict(weights_file.tensors)
    stored = bits.stored_tensors(model)
    one_bit = sorted(name for name in tensors if name.endswith(".kernel_1bit"))
    expected = {name: (tensor.dtype, tensor.shape) for name, tensor in stored.items()}
    if one_bit:
        expected["latent_std"] = (np.dtype(np.float32), (len(one_bit),))
    configs = [c for c in (get_model_config(model), weights_file.model_config) if c]
    classifiers = {config.classifier for config in configs}
    if skip_classifier:
        for name in {*tensors, *expected}:
            if name.split(".")[0] in classifiers:
                tensors.pop(name, None)
                expected.pop(name, None)
    if problems := _differences(tensors, expected, classifiers):
        raise ValueError(
            f"{weights_file.path} does not fit the model {model.name!r}: {'; '.join(problems)}"
        )
    std_of = dict(zip(one_bit, tensors.pop("latent_std", ())))
    assignments = []
    for name, values in tensors.items():
        tensor = stored[name]
        if tensor.quantizer:
            where = f"{weights_file.path}: {name}"
            values = [bits.unpack(where, tensor, values, std_of[name])]
        else:
            values = values.reshape(len(tensor.variables), *tensor.variables[0].shape)
        assignments += zip(tensor.variables, values)
    tf.keras.backend.batch_set_value(assignments)
    return weights_file


def packed_size(model: tf.keras.Model) -> int:
    """Returns the size in bytes of the tensors in the model's weights file, without the header."""
    stored = bits.stored_tensors(model).values()
    return sum(math.prod(s.shape) * s.dtype.itemsize + (4 if s.quantizer else 0) for s in stored)


def _current_config(model, tensors) -> ModelConfig | None:
    config = get_model_config(model)
    if config is None:
        return None
    if config.tensors_sha256 in (None, file.tensors_sha256(tensors)):
        return dataclasses.replace(config, file_sha256=None, tensors_sha256=None)
    unknown = dict.fromkeys(WEIGHTS_FIELDS)
    return dataclasses.replace(config, **{**unknown, "initialized_from": config.file_sha256})


def _differences(tensors, expected, classifiers) -> list[str]:
    found = {name: (values.dtype, values.shape) for name, values in tensors.items()}
    names = sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n))

    def shown(tensor):
        return f"{tensor[0]} {tensor[1]}" if tensor else "missing"

    problems = [
        f"{name} is {shown(found.get(name))} in the file, {shown(expected.get(name))} in the model"
        for name in names
    ]
    if problems[5:]:
        problems[5:] = [f"{len(problems) - 5} more"]
    if {f"{name}_1bit" for name in names} & set(names):
        problems.append("a layer is 1-bit in one only: check weight_bits and kernel_quantizer")
    if any(name.split(".")[0] in classifiers for name in names):
        problems.append("skip_classifier=True keeps the model's own classifier")
    return problems
