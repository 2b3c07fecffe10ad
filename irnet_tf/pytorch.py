"""Weights to and from the authors' PyTorch networks as NumPy arrays, without torch.

A state dict names a tensor `MODULE.PARAMETER`; the layers here have the modules' names. PyTorch's
convolution kernels are `OIHW`, Keras's `HWIO`; dense kernels `out x in` and `in x out`. Flattened
features are in `CHW` order in PyTorch and in `HWC` order in Keras.
"""

from __future__ import annotations

from collections.abc import Mapping
import re

import numpy as np
import tensorflow as tf

_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def pytorch_state_dict(model: tf.keras.Model) -> dict[str, np.ndarray]:
    """Returns the model's weights with the authors' names, order and layout.

    Args:
        model: Network of `irnet_tf.models`.

    Returns:
        Arrays by name, in the variables' types. For torch's `load_state_dict` make them tensors:
        `{k: torch.from_numpy(v) for k, v in d.items()}`.
    """
    return {key: _to_pytorch(variable.numpy(), hwc) for key, variable, hwc in _entries(model)}


def load_pytorch_state_dict(model: tf.keras.Model, state_dict: Mapping[str, np.ndarray]) -> None:
    """Sets the model's weights from the authors' PyTorch state dict.

    The prefix `module.` of `torch.nn.DataParallel` and `num_batches_tracked` entries are ignored.
    If anything is wrong, the model keeps its weights.

    Args:
        model: Network of `irnet_tf.models`. With `padding="symmetric"` its outputs then equal
            those of the PyTorch network.
        state_dict: Arrays or CPU tensors by name.

    Raises:
        ValueError: If entries are missing, unknown or have another shape; the message lists them.
    """
    given = {
        key.removeprefix("module."): np.asarray(value)
        for key, value in state_dict.items()
        if not key.endswith(".num_batches_tracked")
    }
    entries = {key: (variable, hwc) for key, variable, hwc in _entries(model)}
    problems = [f"{key} is not in this network" for key in given if key not in entries]
    for key, (variable, hwc) in entries.items():
        expected = _to_pytorch(np.empty(variable.shape, bool), hwc).shape
        if key not in given:
            problems.append(f"{key} is missing")
        elif given[key].shape != expected:
            problems.append(f"{key} has shape {given[key].shape}, expected {expected}")
    if problems:
        raise ValueError(
            f"the state dict does not fit the network {model.name!r}: {'; '.join(problems)}"
        )
    for key, (variable, hwc) in entries.items():
        variable.assign(_from_pytorch(given[key], hwc))


def _entries(model):
    """Yields (PyTorch name, variable, HWC shape of flattened features or None) in torch's order."""
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    flatten = [x.input_shape[1:] for x in model.layers if isinstance(x, tf.keras.layers.Flatten)]
    for name in sorted(layers, key=lambda name: _position(name, layers)):
        layer = layers[name]
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            for theirs, ours in _BATCH_NORM.items():
                yield f"{name}.{theirs}", getattr(layer, ours), None
        else:
            kernel = getattr(layer.kernel, "latent_variable", layer.kernel)
            dense = isinstance(layer, tf.keras.layers.Dense)
            yield f"{name}.weight", kernel, flatten[0] if dense and flatten else None
            if layer.use_bias:
                yield f"{name}.bias", layer.bias, None


def _position(name, layers):
    """Sort key in the order of the authors' modules: by number, then conv, bn, shortcut."""
    classifier = name in ("linear", "fc")
    last_norm = name == "bn2" and "layer1.0.bn1" in layers
    if classifier or last_norm:
        # Only the CIFAR ResNet-18 defines its last batch norm after the classifier.
        behind = "linear" in layers and "layer4.0.conv1" in layers
        return (3, classifier != behind)
    if "." in name:
        stage, block, module = re.fullmatch(r"layer(\d+)\.(\d+)\.(.+)", name).groups()
        kind, number = re.match(r"([a-z]+)\.?(\d+)", module).groups()
        if kind in ("downsample", "shortcut"):
            return (2, int(stage), int(block), 9, int(number))
        return (2, int(stage), int(block), int(number), kind != "conv")
    kind, number = re.match(r"([a-z]+)(\d+)", name).groups()
    return (1, int(number), kind != "conv")


def _to_pytorch(value, hwc):
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if hwc:
        value = value.reshape(*hwc, -1).transpose(2, 0, 1, 3).reshape(value.shape)
    return value.T


def _from_pytorch(value, hwc):
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    value = value.T
    if hwc:
        h, w, c = hwc
        value = value.reshape(c, h, w, -1).transpose(1, 2, 0, 3).reshape(value.shape)
    return value
