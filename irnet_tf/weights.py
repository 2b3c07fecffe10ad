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
`created_with` and `facts`. `sha256`, always first, is that of the whole file with these 64
digits replaced by zeros, so that no byte can change unnoticed. Files are deterministic, and
reading one executes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
import re

import irnet_tf
from irnet_tf.quantizers import LibraPB, libra_pb
import larq as lq
import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

FORMAT_VERSION = 1

_CLASSIFIERS = ("fc", "linear")
_SEAL = re.compile(rb'.{8}\{"__metadata__":\{"irnet_tf":"\{\\"sha256\\":\\"([0-9a-f]{64})', re.S)
_UNSEALED = 64 * "0"


def save_weights(model: tf.keras.Model, path, facts: dict | None = None) -> None:
    """Write the model's weights to a 1-bit weight file.

    The file appears whole or not at all; one that was there is replaced.

    Args:
        model: a built Keras model. Weights that are not 1-bit are rounded to float32.
        path: of the file; its folder must exist.
        facts: what to say of the network, of JSON types; `network` is its name in the zoo,
            `arguments`, `data`, `epochs`, `seed` and `accuracy` are customary.

    Raises:
        ValueError: if binary weights are not finite, or `facts` are not of JSON types.
        OSError: if the file cannot be written.
    """
    tensors, stds = {}, []
    for name, slot in sorted(_slots(model).items()):
        values = tf.keras.backend.batch_get_value(slot.variables)
        if slot.quantizer:
            tensors[name], std = _pack(name, slot, values[0])
            stds.append(std)
        else:
            tensors[name] = np.stack(values).astype(np.float32).reshape(slot.file_shape)
    if stds:
        tensors["latent_std"] = np.array(stds, np.float32)
    _write(Path(path), _seal(tensors, facts or {}))


def load_weights(
    model: tf.keras.Model, path, *, skip_classifier: bool = False, network: str | None = None
) -> dict:
    """Set the model's weights from a 1-bit weight file.

    Everything is checked first: if anything is wrong the model is left as it was. Libra-PB
    quantizes the latent weights that are set to exactly what is in the file.

    Args:
        model: a built Keras model.
        path: of the file.
        skip_classifier: pass over the classifier (`fc` or `linear`), which in the model then
            stays as it is. The model may have another `num_classes`, or no top at all.
        network: the name that `facts["network"]` must have; None: any.

    Returns:
        The facts, as `read_facts` returns them.

    Raises:
        ValueError: if the file is damaged, of another network or of a newer format.
        OSError: if the file cannot be read.
    """
    tensors, facts = _read(path)
    if network is not None and facts.get("network") != network:
        raise ValueError(
            f"{path} holds weights of {facts.get('network')!r}, not of {network!r}: load it into "
            "the network it was made for, or give another file"
        )
    one_bit = sorted(name for name in tensors if name.endswith(".kernel_1bit"))
    stds = dict(zip(one_bit, np.ravel(tensors.pop("latent_std", ()))))
    slots = _slots(model)
    if skip_classifier:
        _drop_classifier(tensors, slots)
    problems = _differences(tensors, slots)
    if len(stds) != len(one_bit):
        problems.append(f"latent_std has {len(stds)} values for {len(one_bit)} 1-bit layers")
    if problems:
        raise ValueError(f"{path} does not fit the model {model.name!r}: {'; '.join(problems)}")
    assignments = []
    for name, slot in slots.items():
        if slot.quantizer:
            values = [_unpack(f"{path}: {name}", slot, tensors[name], stds[name])]
        else:
            values = tensors[name].reshape(len(slot.variables), *slot.variables[0].shape)
        assignments += zip(slot.variables, values)
    tf.keras.backend.batch_set_value(assignments)
    return facts


def read_facts(path) -> dict:
    """The facts of a 1-bit weight file, which is checked as a whole.

    Args:
        path: of the file.

    Returns:
        What was given as `facts` when the file was saved, with `format_version` and
        `created_with` (a dict from package to version).

    Raises:
        ValueError: if the file is damaged or of a newer format.
        OSError: if the file cannot be read.
    """
    return _read(path)[1]


def packed_size(model: tf.keras.Model) -> int:
    """Bytes of the tensors in the model's 1-bit weight file; the header comes on top."""
    slots = _slots(model).values()
    stds = sum(4 for slot in slots if slot.quantizer)
    return stds + sum(math.prod(s.file_shape) * (1 if s.quantizer else 4) for s in slots)


@dataclasses.dataclass(frozen=True)
class _Slot:
    """Where one of the file's tensors belongs in a model."""

    variables: list[tf.Variable]
    file_shape: tuple[int, ...]
    quantizer: LibraPB | None = None  # of 1-bit kernels
    compute_dtype: str | None = None

    @property
    def flat_shape(self):
        return _flat_shape(self.variables[0], self.quantizer)

    def quantize(self, latent, dtype):
        """What Libra-PB makes of a latent kernel, as float32 [n, channels]."""
        kernel = tf.cast(tf.reshape(latent, self.variables[0].shape), dtype)
        quantized = libra_pb(kernel, channel_axes=self.quantizer.channel_axes)
        return tf.reshape(tf.cast(quantized, tf.float32), self.flat_shape).numpy()


def _flat_shape(kernel, quantizer):
    """(n, channels)."""
    shape = kernel.shape.as_list()
    split = len(shape) - quantizer.channel_axes
    return math.prod(shape[:split]), math.prod(shape[split:])


def _slots(model):
    slots = {}

    def add(name, *slot):
        if name in slots:
            raise ValueError(f"two layers of the model have {name!r}: name layers differently")
        slots[name] = _Slot(*slot)

    for layer in _leaves(model):
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            shape = (len(layer.weights), *layer.weights[0].shape)
            add(f"{layer.name}.batch_norm", layer.weights, shape)
            continue
        for variable in layer.weights:
            name = f"{layer.name}.{variable.name.split('/')[-1].split(':')[0]}"
            quantizer = getattr(layer, "kernel_quantizer", None)
            # Not of a subclass, which may quantize in another way.
            if name.endswith(".kernel") and type(quantizer) is LibraPB:
                n, channels = _flat_shape(variable, quantizer)
                shape = (channels, 1 + math.ceil(n / 8))
                add(f"{name}_1bit", [variable], shape, quantizer, layer.compute_dtype)
            else:
                add(name, [variable], tuple(variable.shape))
    return slots


def _leaves(model):
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            yield from _leaves(layer)
        elif layer.weights:
            yield layer


def _drop_classifier(tensors, slots):
    dropped = {name for name in (*tensors, *slots) if name.split(".")[0] in _CLASSIFIERS}
    if not dropped & slots.keys() and "bn2.batch_norm" not in slots:
        dropped.add("bn2.batch_norm")  # of ResNets; behind the pooling, so part of the top
    for name in dropped:
        tensors.pop(name, None)
        slots.pop(name, None)


def _differences(tensors, slots):
    def listed(items):
        return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if items[5:] else "")

    missing = [name for name in slots if name not in tensors]
    surplus = [name for name in tensors if name not in slots]
    misshaped = []
    for name, slot in slots.items():
        found = tensors.get(name)
        dtype = np.dtype(np.uint8 if slot.quantizer else np.float32)
        if found is not None and (found.dtype, found.shape) != (dtype, slot.file_shape):
            misshaped.append(
                f"{name} is {found.dtype} {found.shape} in the file, {dtype} {slot.file_shape} in "
                "the model"
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
    if any(name.split(".")[0] in _CLASSIFIERS for name in (*missing, *surplus, *misshaped)):
        problems.append("skip_classifier=True leaves the classifier out")
    return problems


def _pack(name, slot, latent):
    """A 1-bit kernel's tensor in the file, and its value of `latent_std`."""
    # In mixed precision the network rounds latent weights before it quantizes them.
    quantized = slot.quantize(latent, slot.compute_dtype)
    plus = quantized > 0
    exponents = np.frexp(np.abs(quantized[0]))[1] - 1
    if not np.array_equal(quantized, np.where(plus, 1, -1) * np.exp2(exponents)):
        raise ValueError(f"{name}: the binary weights are not finite, training has diverged")
    flat = latent.reshape(slot.flat_shape).astype(np.float64)
    std = np.sqrt(flat.var(0, ddof=min(1, len(flat) - 1)).mean())
    # Squares of these neither overflow nor vanish, in half precision either.
    std = np.float32(np.clip(std, 1e-3, 1e3))
    first = exponents.astype(np.int8).view(np.uint8)[:, None]
    rows = np.concatenate([first, np.packbits(plus.T, axis=1)], axis=1)
    _unpack(name, slot, rows, std)  # a file that could not be loaded is not written
    return rows, std


def _unpack(name, slot, rows, std):
    """Latent weights that Libra-PB turns into exactly the signs and exponents of `rows`."""
    n, channels = slot.flat_shape
    exponents = rows[:, 0].view(np.int8).astype(int)
    plus = np.unpackbits(rows[:, 1:], axis=1, count=n).T.astype(bool)
    expected = np.where(plus, 1, -1) * np.exp2(exponents)
    variable = slot.variables[0]
    latent = np.empty((n, channels))
    wrong = np.ones(channels, bool)
    # Once is enough but for channels on the very boundary of two exponents, such as any with
    # one plus and one minus, where rounding decides: there other magnitudes help.
    for attempt in range(64):
        latent[:, wrong] = _latent_weights(
            plus[:, wrong], exponents[wrong], std * 2 ** (attempt / 64)
        )
        wrong = np.zeros(channels, bool)
        for dtype in {variable.dtype.name, slot.compute_dtype}:
            wrong |= (slot.quantize(latent, dtype) != expected).any(axis=0)
        if not wrong.any():
            return latent.reshape(variable.shape)
    raise ValueError(
        f"{name}: no latent weights give the signs and exponents of output channels "
        f"{np.flatnonzero(wrong)[:5].tolist()} ({wrong.sum()} in all); they cannot come from "
        "trained weights, take a file that save_weights wrote"
    )


def _latent_weights(plus, exponents, std):
    """Latent weights of given signs and exponents, as far as there are any.

    Of p plus and q minus weights with mean 0 let each side's magnitudes sum to 1, and their
    squares to r in all. Then std = sqrt(r / (n - 1)) and mean|w_std| = 2 / n / std. Equal
    magnitudes give the smallest r, 1/p + 1/q, hence the largest exponent; all of a side's
    magnitude in one weight the largest, 2. In between, a share `theta` of the magnitude goes
    to k heavy weights of each side and the rest is spread evenly, which gives
    r = 1/p + 1/q + theta**2 * (1/k_p - 1/p + 1/k_q - 1/q).

    Args:
        plus: bool [n, channels]; channels of one sign become 0, a constant channel.
        exponents: int [channels].
        std: of each channel's latent weights.

    Returns:
        float64 [n, channels].
    """
    n = len(plus)
    p = np.maximum(plus.sum(0), 1)
    q = np.maximum(n - plus.sum(0), 1)
    smallest = 1 / p + 1 / q

    def of_magnitude(x):  # r of a mean|w_std|, and the other way round
        return (n - 1) * (2 / (n * x)) ** 2

    # Aim for the middle of what can be reached of log2(mean|w_std|) between s - 1/2, s + 1/2.
    low = np.maximum(of_magnitude(np.exp2(exponents + 0.5)), smallest)
    high = np.minimum(of_magnitude(np.exp2(exponents - 0.5)), 2)
    r = np.clip(np.sqrt(low * high), smallest, 2)

    # As many heavy weights as leave the others half of the magnitude, far from changing sign.
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


def _seal(tensors, facts):
    """The file's bytes."""
    header = {
        "sha256": _UNSEALED,
        "format_version": FORMAT_VERSION,
        "created_with": {
            "irnet_tf": irnet_tf.__version__,
            "tensorflow": tf.__version__,
            "larq": lq.__version__,
        },
        "facts": facts,
    }
    try:
        text = json.dumps(header, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"facts must be of JSON types (dict, list, str, int, finite float, bool, None): {error}"
        ) from error
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    data = safetensors.numpy.save(contiguous, {"irnet_tf": text})
    return _with_digest(data, hashlib.sha256(data).hexdigest())


def _with_digest(data, digest):
    start, end = _SEAL.match(data).span(1)
    return data[:start] + digest.encode() + data[end:]


def _read(path):
    """(tensors, facts) of a file that is whole and of this format."""
    data = Path(path).read_bytes()
    seal = _SEAL.match(data)
    if not seal:
        raise ValueError(
            f"{path} is not a 1-bit weight file of irnet_tf, or its beginning is damaged: fetch "
            "or copy it anew, or write it with irnet_tf.weights.save_weights"
        )
    expected = seal[1].decode()
    found = hashlib.sha256(_with_digest(data, _UNSEALED)).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} is damaged or incomplete: its {len(data)} bytes have SHA-256 {found}, its "
            f"header says {expected}; fetch or copy it anew"
        )
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["irnet_tf"])
        version, created_with = header["format_version"], header["created_with"]
        if version != FORMAT_VERSION:
            raise ValueError(
                f"it has format version {version}, this irnet_tf reads version {FORMAT_VERSION}; "
                f"take an irnet_tf as new as what it was created with, {created_with}"
            )
        facts = {**header["facts"], "format_version": version, "created_with": created_with}
        return safetensors.numpy.load(data), facts
    except (ValueError, LookupError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _write(path, data):
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(beside)
