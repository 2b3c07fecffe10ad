"""Which tensors a weights file has for a model, and how 1-bit kernels are packed."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math

from irnet_tf.quantizers import LibraPB, libra_pb
from irnet_tf.weights.latent import latent_weights
import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where one of the file's tensors belongs in a model.

    Attributes:
        variables: of the model; several are stacked.
        shape: in the file.
        quantizer: of 1-bit kernels; None for what is kept as float32.
        compute_dtype: in which the layer computes; of 1-bit kernels.
    """

    variables: list[tf.Variable]
    shape: tuple[int, ...]
    quantizer: LibraPB | None = None
    compute_dtype: str | None = None

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.quantizer else np.float32)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def flat_shape(self) -> tuple[int, int]:
        """(n, channels) of a 1-bit kernel."""
        return _flat_shape(self.variables[0], self.quantizer)

    def quantize(self, latent: np.ndarray, dtype: str) -> np.ndarray:
        """What Libra-PB makes of a latent kernel, as float32 [n, channels]."""
        kernel = tf.cast(tf.reshape(latent, self.variables[0].shape), dtype)
        channel_axes = self.quantizer.output_axes(len(kernel.shape))
        quantized = libra_pb(kernel, channel_axes=channel_axes)
        return tf.reshape(tf.cast(quantized, tf.float32), self.flat_shape).numpy()


def stored_tensors(model: tf.keras.Model) -> dict[str, StoredTensor]:
    """By name, what the weights file of a model holds.

    Raises:
        ValueError: if two variables would have the same name, or one is in no layer.
    """
    stored = {}

    def add(name, *arguments):
        if name in stored:
            raise ValueError(
                f"{name!r} is twice in the model: give layers names of their own. Layers within a "
                "layer that is no tf.keras.Model cannot be told apart: build it as a Model"
            )
        stored[name] = StoredTensor(*arguments)

    for layer in leaves(model):
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            shape = (len(layer.weights), *layer.weights[0].shape)
            add(f"{layer.name}.batch_norm", layer.weights, shape)
            continue
        for variable in layer.weights:
            name = f"{layer.name}.{variable.name.split('/')[-1].split(':')[0]}"
            quantizer = getattr(layer, "kernel_quantizer", None)
            # Not of a subclass, which may quantize in another way.
            one_bit = name.endswith(".kernel") and type(quantizer) is LibraPB
            if one_bit and _channels_last(variable, quantizer):
                n, channels = _flat_shape(variable, quantizer)
                shape = (channels, 1 + math.ceil(n / 8))
                add(f"{name}_1bit", [variable], shape, quantizer, layer.compute_dtype)
            else:
                add(name, [variable], tuple(variable.shape))
    known = {id(variable) for tensor in stored.values() for variable in tensor.variables}
    if lost := [v.name for v in model.weights if id(v) not in known]:
        raise ValueError(
            f"{', '.join(lost[:5])} of the model {model.name!r} would not be kept: a weights file "
            "holds what layers have; put it into a layer"
        )
    return stored


def leaves(model) -> Iterator[tf.keras.layers.Layer]:
    """The layers that have weights, those of models within the model too."""
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            yield from leaves(layer)
        elif layer.weights:
            yield layer


def _channels_last(kernel, quantizer) -> bool:
    axes = quantizer.output_axes(rank := len(kernel.shape))
    return axes == list(range(rank - len(axes), rank))


def _flat_shape(kernel, quantizer):
    shape = kernel.shape.as_list()
    split = len(shape) - len(quantizer.output_axes(len(shape)))
    return math.prod(shape[:split]), math.prod(shape[split:])


def pack(name: str, stored: StoredTensor, latent: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """A 1-bit kernel's tensor in the file, and its value of `latent_std`.

    Raises:
        ValueError: if the binary weights are not finite.
    """
    # In mixed precision the network rounds latent weights before it quantizes them.
    quantized = stored.quantize(latent, stored.compute_dtype)
    plus = quantized > 0
    exponents = np.frexp(np.abs(quantized[0]))[1] - 1
    if not np.array_equal(quantized, np.where(plus, 1, -1) * np.exp2(exponents)):
        raise ValueError(f"{name}: the binary weights are not finite, training has diverged")
    flat = latent.reshape(stored.flat_shape).astype(np.float64)
    std = np.sqrt(flat.var(0, ddof=min(1, len(flat) - 1)).mean())
    # Squares of these neither overflow nor vanish, in half precision either.
    std = np.float32(np.clip(std, 1e-3, 1e3))
    first = exponents.astype(np.int8).view(np.uint8)[:, None]
    rows = np.concatenate([first, np.packbits(plus.T, axis=1)], axis=1)
    unpack(name, stored, rows, std)  # a file that could not be loaded is not written
    return rows, std


def unpack(name: str, stored: StoredTensor, rows: np.ndarray, std: np.float32) -> np.ndarray:
    """Latent weights that Libra-PB turns into exactly the signs and exponents of `rows`.

    Raises:
        ValueError: if there are none.
    """
    n, channels = stored.flat_shape
    exponents = rows[:, 0].view(np.int8).astype(int)
    plus = np.unpackbits(rows[:, 1:], axis=1, count=n).T.astype(bool)
    expected = np.where(plus, 1, -1) * np.exp2(exponents)
    variable = stored.variables[0]
    latent = np.empty((n, channels))
    wrong = np.ones(channels, bool)
    # Once is enough but for channels on the very boundary of two exponents, such as any with
    # one plus and one minus, where rounding decides: there other magnitudes help.
    for attempt in range(64):
        latent[:, wrong] = latent_weights(
            plus[:, wrong], exponents[wrong], std * 2 ** (attempt / 64)
        )
        wrong = np.zeros(channels, bool)
        for dtype in {variable.dtype.name, stored.compute_dtype}:
            wrong |= (stored.quantize(latent, dtype) != expected).any(axis=0)
        if not wrong.any():
            return latent.reshape(variable.shape)
    raise ValueError(
        f"{name}: no latent weights give the signs and exponents of output channels "
        f"{np.flatnonzero(wrong)[:5].tolist()} ({wrong.sum()} in all); they cannot come from "
        "trained weights, take a file that save_weights wrote"
    )
