"""Tensors of a model's weights file, and the packing of 1-bit kernels."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math

from irnet_tf.quantizers import LibraPB, libra_pb
import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor of the file and the variables of the model that it holds.

    Attributes:
        variables: Variables of the model, stacked if there are several.
        shape: Shape in the file.
        quantizer: Quantizer of a 1-bit kernel; None for a float32 tensor.
        flat_shape: Number of weights per channel and of channels of a 1-bit kernel.
        compute_dtype: Type in which the layer of a 1-bit kernel computes.
    """

    variables: list[tf.Variable]
    shape: tuple[int, ...]
    quantizer: LibraPB | None = None
    flat_shape: tuple[int, int] | None = None
    compute_dtype: str | None = None

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.quantizer else np.float32)

    def quantize(self, latent: np.ndarray, dtype: str) -> np.ndarray:
        """Applies Libra-PB to a latent kernel. Returns float32 [n, channels]."""
        kernel = tf.cast(tf.reshape(latent, self.variables[0].shape), dtype)
        channel_axes = self.quantizer.output_axes(len(kernel.shape))
        quantized = libra_pb(kernel, channel_axes=channel_axes)
        return tf.reshape(tf.cast(quantized, tf.float32), self.flat_shape).numpy()


def stored_tensors(model: tf.keras.Model) -> dict[str, StoredTensor]:
    """Returns the tensors of the model's weights file by name.

    Raises:
        ValueError: If two variables have the same name or a variable is not in a layer.
    """
    stored = {}

    def add(name, *arguments):
        if name in stored:
            raise ValueError(
                f"{name!r} occurs twice in the model: give each layer a unique name. Build a layer "
                "that consists of layers as a tf.keras.Model"
            )
        stored[name] = StoredTensor(*arguments)

    for layer in _leaves(model):
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            shape = (len(layer.weights), *layer.weights[0].shape)
            add(f"{layer.name}.batch_norm", layer.weights, shape)
            continue
        for variable in layer.weights:
            name = f"{layer.name}.{variable.name.split('/')[-1].split(':')[0]}"
            quantizer = getattr(layer, "kernel_quantizer", None)
            # A subclass may quantize in another way.
            one_bit = name.endswith(".kernel") and type(quantizer) is LibraPB
            if one_bit and (flat := _flat_shape(variable, quantizer)):
                shape = (flat[1], 1 + math.ceil(flat[0] / 8))
                add(f"{name}_1bit", [variable], shape, quantizer, flat, layer.compute_dtype)
            else:
                add(name, [variable], tuple(variable.shape))
    known = {id(variable) for tensor in stored.values() for variable in tensor.variables}
    if lost := [v.name for v in model.weights if id(v) not in known]:
        raise ValueError(
            f"{', '.join(lost[:5])} of the model {model.name!r} is not in a layer, as a weights "
            "file needs it"
        )
    return stored


def _leaves(model) -> Iterator[tf.keras.layers.Layer]:
    """Yields the layers with weights, including those of models within the model."""
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            yield from _leaves(layer)
        elif layer.weights:
            yield layer


def _flat_shape(kernel, quantizer) -> tuple[int, int] | None:
    """Returns (n, channels) of a 1-bit kernel; None if its output channels are not last."""
    shape = kernel.shape.as_list()
    axes = quantizer.output_axes(len(shape))
    split = len(shape) - len(axes)
    if axes != list(range(split, len(shape))):
        return None
    return math.prod(shape[:split]), math.prod(shape[split:])


def pack(name: str, stored: StoredTensor, latent: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Returns the tensor of a 1-bit kernel and its value in `latent_std`.

    Raises:
        ValueError: If the binary weights are not finite.
    """
    # In mixed precision the network rounds latent weights before it quantizes them.
    quantized = stored.quantize(latent, stored.compute_dtype)
    plus = quantized > 0
    exponents = np.frexp(np.abs(quantized[0]))[1] - 1
    if not np.array_equal(quantized, np.where(plus, 1, -1) * np.exp2(exponents)):
        raise ValueError(f"{name}: the binary weights are not finite, training has diverged")
    flat = latent.reshape(stored.flat_shape).astype(np.float64)
    std = np.sqrt(flat.var(0, ddof=min(1, len(flat) - 1)).mean())
    # The squares of these bounds are finite and above zero in half precision too.
    std = np.float32(np.clip(std, 1e-3, 1e3))
    first = exponents.astype(np.int8).view(np.uint8)[:, None]
    rows = np.concatenate([first, np.packbits(plus.T, axis=1)], axis=1)
    unpack(name, stored, rows, std)  # raises here instead of when the file is loaded
    return rows, std


def unpack(name: str, stored: StoredTensor, rows: np.ndarray, std: np.float32) -> np.ndarray:
    """Returns latent weights that Libra-PB quantizes to the signs and exponents of `rows`.

    Raises:
        ValueError: If there are none.
    """
    n, channels = stored.flat_shape
    exponents = rows[:, 0].view(np.int8).astype(int)
    plus = np.unpackbits(rows[:, 1:], axis=1, count=n).T.astype(bool)
    expected = np.where(plus, 1, -1) * np.exp2(exponents)
    variable = stored.variables[0]
    latent = np.empty((n, channels))
    wrong = np.ones(channels, bool)
    # Channels on the boundary of two exponents, such as those with one plus and one minus, depend
    # on rounding. For them other magnitudes are tried.
    for attempt in range(64):
        scaled = std * 2 ** (attempt / 64)
        latent[:, wrong] = latent_weights(plus[:, wrong], exponents[wrong], scaled)
        wrong = np.zeros(channels, bool)
        for dtype in {variable.dtype.name, stored.compute_dtype}:
            wrong |= (stored.quantize(latent, dtype) != expected).any(axis=0)
        if not wrong.any():
            return latent.reshape(variable.shape)
    raise ValueError(
        f"{name}: no latent weights give the signs and exponents of output channels "
        f"{np.flatnonzero(wrong)[:5].tolist()} ({wrong.sum()} in all); use a file that "
        "save_weights wrote"
    )


def latent_weights(plus: np.ndarray, exponents: np.ndarray, std) -> np.ndarray:
    """Returns latent weights that Libra-PB quantizes to given signs and exponents, where possible.

    Let p weights be positive and q negative, with mean 0, and the magnitudes of each side sum to
    1. Let r be the sum of all squares. Then std = sqrt(r / (n - 1)) and mean|w_std| = 2 / n / std.
    Equal magnitudes give the smallest r, 1/p + 1/q, hence the largest exponent. One weight with
    all the magnitude of its side gives the largest r, 2. In between, a share `theta` of the
    magnitude goes to k heavy weights of each side and the rest is spread evenly, which gives
    r = 1/p + 1/q + theta**2 * (1/k_p - 1/p + 1/k_q - 1/q).

    Args:
        plus: Signs, bool [n, channels]. Channels of one sign become 0, a constant channel.
        exponents: Exponents s, int [channels].
        std: Standard deviation of each channel's latent weights.

    Returns:
        float64 [n, channels].
    """
    n = len(plus)
    p = np.maximum(plus.sum(0), 1)
    q = np.maximum(n - plus.sum(0), 1)
    smallest = 1 / p + 1 / q

    def of_magnitude(x):  # r from mean|w_std|
        return (n - 1) * (2 / (n * x)) ** 2

    # The middle of the reachable values of log2(mean|w_std|) between s - 1/2 and s + 1/2.
    low = np.maximum(of_magnitude(np.exp2(exponents + 0.5)), smallest)
    high = np.minimum(of_magnitude(np.exp2(exponents - 0.5)), 2)
    r = np.clip(np.sqrt(low * high), smallest, 2)

    # As many heavy weights as leave half of the magnitude to the others, which keep their signs.
    k_p, k_q = np.ones_like(p), np.ones_like(q)
    for heavy_share in 2.0 ** -np.arange(12, -0.5, -0.5):
        many_p = np.maximum(1, (p * heavy_share).astype(int))
        many_q = np.maximum(1, (q * heavy_share).astype(int))
        enough = (r - smallest) * 4 <= 1 / many_p + 1 / many_q - smallest
        k_p, k_q = np.where(enough, many_p, k_p), np.where(enough, many_q, k_q)
    room = 1 / k_p + 1 / k_q - smallest
    theta = np.sqrt(np.divide(r - smallest, room, out=np.zeros_like(r), where=room > 0))

    count, k = np.where(plus, p, q), np.where(plus, k_p, k_q)
    rank = np.where(plus, plus.cumsum(0), (~plus).cumsum(0))  # 1 to count, on each side
    heavy = rank * k // count > (rank - 1) * k // count  # k of them, evenly apart
    magnitude = (1 - theta) / count + heavy * theta / k
    varied = plus.any(0) & ~plus.all(0)
    return np.where(plus, 1, -1) * magnitude * (varied * std * np.sqrt((n - 1) / r))
