"""1-bit weight files: a network in `safetensors`, one bit a binary weight.

Tensors are named `LAYER.SUFFIX`, the layers as in the model (and in the authors' PyTorch code):

    LAYER.kernel_1bit   uint8 [channels, 1 + ceil(n / 8)]: a convolution or dense kernel that
                        `LibraPB` quantizes. Each row is an output channel: the exponent s as
                        a signed byte, then the signs of its n weights, row-major over the
                        kernel's other axes, first bit highest, 1 for +1, padded with 0.
    LAYER.batch_norm    float32 [4, channels]: gamma, beta, moving mean, moving variance.
    LAYER.VARIABLE      float32, the variable's shape: anything else (`fc.kernel`, `fc.bias`),
                        including kernels with another quantizer or none.
    latent_std          float32 [1-bit layers, sorted by name]: see below.

What a binary network computes depends on latent weights only through signs and s, so those
are dropped and made anew on loading (`_latent_weights`). They get the root mean square
standard deviation that the layer's latent weights had: the outputs do not depend on it, but
gradients scale with its inverse, so that training goes on at the pace it had.

The header's one metadata entry `irnet_tf` is a JSON object: `sha256`, `format_version`,
`created_with`, `description` (of the network, see `irnet_tf.model_config`; not in every file) and
`facts` (other metadata). `sha256`, always first, is that of the whole file with these 64 digits
replaced by zeros, so that no byte can change unnoticed. Files are deterministic, and reading one
executes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os

from irnet_tf._utils import write_atomically
from irnet_tf.model_config import ModelConfig, get_model_config
from irnet_tf.weights import bits, file
from irnet_tf.weights.file import FORMAT_VERSION, MAX_BYTES, WeightsFile, read
import numpy as np
import tensorflow as tf

__all__ = [
    "FORMAT_VERSION",
    "MAX_BYTES",
    "WeightsFile",
    "load_weights",
    "loaded_from",
    "packed_size",
    "read",
    "read_metadata",
    "save_weights",
]

_LEGACY_CLASSIFIERS = ("fc", "linear")  # of models and files without a description


def save_weights(model: tf.keras.Model, path: str | os.PathLike, metadata: dict | None = None):
    """Write the model's weights, and its description if it has one, to a 1-bit weights file.

    The file appears whole or not at all; one that was there is replaced. A description that was
    loaded with weights which have changed since is kept but for what it says of their training:
    recipe, data, results.

    Args:
        model: a built Keras model. Weights that are not 1-bit are rounded to float32.
        path: of the file; its folder must exist.
        metadata: what else to keep, of JSON types.

    Raises:
        ValueError: if weights are not finite, or description or metadata are not of JSON types.
        OSError: if the file cannot be written.
    """
    tensors, stds = {}, []
    for name, stored in sorted(bits.stored_tensors(model).items()):
        values = tf.keras.backend.batch_get_value(stored.variables)
        if stored.quantizer:
            tensors[name], std = bits.pack(name, stored, values[0])
            stds.append(std)
        else:
            tensors[name] = np.stack(values).astype(np.float32).reshape(stored.shape)
    description = _still_true(model, tensors)
    if stds:
        tensors["latent_std"] = np.array(stds, np.float32)
    write_atomically(path, file.to_bytes(tensors, description, metadata))


def load_weights(
    model: tf.keras.Model,
    path: str | os.PathLike | WeightsFile,
    *,
    skip_classifier: bool = False,
) -> WeightsFile:
    """Set the model's weights from a 1-bit weights file.

    Everything is checked first: if anything is wrong the model is left as it was. Libra-PB
    quantizes the latent weights that are set to exactly what is in the file.

    Args:
        model: a built Keras model.
        path: of the file, or what `read` made of it.
        skip_classifier: pass over the classifier, which in the model then stays as it is. The
            model may have another `num_classes`.

    Returns:
        What the file holds, with its description and metadata.

    Raises:
        ValueError: if the file is damaged, of another network or of a newer format.
        OSError: if the file cannot be read.
    """
    found = path if isinstance(path, WeightsFile) else read(path)
    tensors = dict(found.tensors)
    one_bit = sorted(name for name in tensors if name.endswith(".kernel_1bit"))
    stds = dict(zip(one_bit, np.ravel(tensors.pop("latent_std", ()))))
    stored = bits.stored_tensors(model)
    described = [d for d in (get_model_config(model), found.description) if d is not None]
    classifiers = {d.classifier for d in described} if described else {*_LEGACY_CLASSIFIERS}
    if skip_classifier:
        for name in (*tensors, *stored):
            if name.split(".")[0] in classifiers:
                tensors.pop(name, None)
                stored.pop(name, None)
    problems = _differences(tensors, stored, classifiers)
    if len(stds) != len(one_bit):
        problems.append(f"latent_std has {len(stds)} values for {len(one_bit)} 1-bit layers")
    if problems:
        raise ValueError(
            f"{found.path} does not fit the model {model.name!r}: {'; '.join(problems)}"
        )
    assignments = []
    for name, tensor in stored.items():
        if tensor.quantizer:
            values = [bits.unpack(f"{found.path}: {name}", tensor, tensors[name], stds[name])]
        else:
            values = tensors[name].reshape(len(tensor.variables), *tensor.variables[0].shape)
        assignments += zip(tensor.variables, values)
    tf.keras.backend.batch_set_value(assignments)
    return found


def read_metadata(path: str | os.PathLike) -> dict:
    """What was given as `metadata` when a weights file was saved; the file is checked as a whole.

    Returns:
        The metadata, with `format_version`, `created_with` (from package to version), and
        `description` if the file has one, as `ModelConfig.to_dict` gives it.

    Raises:
        ValueError, OSError: as `read`.
    """
    found = read(path)
    if found.description is None:
        return found.metadata
    return {**found.metadata, "description": found.description.to_dict()}


def packed_size(model: tf.keras.Model) -> int:
    """Bytes of the tensors in the model's 1-bit weights file; the header comes on top."""
    stored = bits.stored_tensors(model).values()
    return sum(s.nbytes + (4 if s.quantizer else 0) for s in stored)


def remember_loaded(model: tf.keras.Model, found: WeightsFile) -> None:
    """Note which weights the model's description speaks of.

    For whoever loads a file and attaches what it says: `save_weights` then leaves out what is no
    longer true once the weights have changed.
    """
    said = get_model_config(model), _fingerprint(found.tensors), found.sha256
    object.__setattr__(model, "_irnet_tf_loaded", said)  # hidden from Keras's tracking


def loaded_from(model: tf.keras.Model) -> str | None:
    """SHA-256 of the file that a model was loaded from by `zoo.load`; None of others."""
    return getattr(model, "_irnet_tf_loaded", (None, None, None))[2]


def remember_alike(model: tf.keras.Model, other: tf.keras.Model) -> None:
    """Note of a model what was noted of another, which has the same weights and description."""
    said = getattr(other, "_irnet_tf_loaded", None)
    if said is not None:
        object.__setattr__(model, "_irnet_tf_loaded", said)


def _still_true(model, tensors) -> ModelConfig | None:
    description = get_model_config(model)
    loaded, fingerprint, sha256 = getattr(model, "_irnet_tf_loaded", (None, "", ""))
    if description is None or description is not loaded or fingerprint == _fingerprint(tensors):
        return description
    unknown = dict.fromkeys(("recipe", "data", "seed", "results", "training"))
    return dataclasses.replace(description, **unknown, initialized_from=sha256)


def _fingerprint(tensors):
    digest = hashlib.sha256()
    for name in sorted(tensors.keys() - {"latent_std"}):  # that is rounded anew
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _differences(tensors, stored, classifiers):
    def listed(items):
        return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if items[5:] else "")

    missing = [name for name in stored if name not in tensors]
    surplus = [name for name in tensors if name not in stored]
    misshaped = []
    for name, tensor in stored.items():
        found = tensors.get(name)
        if found is not None and (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
            misshaped.append(
                f"{name} is {found.dtype} {found.shape} in the file, {tensor.dtype} "
                f"{tensor.shape} in the model"
            )
    problems = []
    if missing:
        problems.append(f"the file lacks {listed(missing)}")
    if surplus:
        problems.append(f"the model has no {listed(surplus)}")
    if misshaped:
        problems.append(listed(misshaped))
    if {f"{name}_1bit" for name in (*missing, *surplus)} & {*missing, *surplus}:
        problems.append("one is 1-bit and the other not: check weight_bits and kernel_quantizer")
    if any(name.split(".")[0] in classifiers for name in (*missing, *surplus, *misshaped)):
        problems.append("skip_classifier=True leaves the classifier out")
    return problems
