"""The bytes of a weights file: sealed with a digest, checked as a whole before they are used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re

import irnet_tf
from irnet_tf._utils import read_regular
from irnet_tf.model_config import ModelConfig
import larq as lq
import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

FORMAT_VERSION = 1
MAX_BYTES = 1 << 30  # the largest network here has a quarter of that in float32

_SEAL = re.compile(rb'.{8}\{"__metadata__":\{"irnet_tf":"\{\\"sha256\\":\\"([0-9a-f]{64})', re.S)
_UNSEALED = 64 * "0"
_UNREADABLE = (ValueError, LookupError, TypeError, OverflowError, safetensors.SafetensorError)


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """What a weights file holds; whole and undamaged.

    Attributes:
        path: where it is.
        sha256: of its bytes.
        tensors: by name, as in the file.
        description: of the network; None if the file has none.
        metadata: what was given as such when the file was saved, `format_version` and
            `created_with` (from package to version).
    """

    path: str
    sha256: str
    tensors: dict[str, np.ndarray]
    description: ModelConfig | None
    metadata: dict


def read(path: str | os.PathLike) -> WeightsFile:
    """Read a weights file. Nothing in it is executed.

    Args:
        path: of a regular file of at most `MAX_BYTES`.

    Raises:
        ValueError: if it is no such file, is damaged or of a newer format, holds numbers that
            are not finite, or a description that is none.
        OSError: if the file cannot be read.
    """
    data = read_regular(path, MAX_BYTES)
    _check_seal(path, data)
    try:
        header = _header(data)
        version, created_with = header["format_version"], header["created_with"]
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise ValueError(
                f"it has format version {version!r}, this irnet_tf reads version {FORMAT_VERSION}; "
                f"take an irnet_tf as new as what it was created with, {created_with!r}"
            )
        metadata = {**header["facts"], "format_version": version, "created_with": created_with}
        description = header.get("description")
        if description is not None:
            description = ModelConfig.from_dict(description)
        tensors = safetensors.numpy.load(data)
        check_finite(tensors)
    except RecursionError:
        raise ValueError(f"{path} cannot be read: its header is nested too deeply") from None
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return WeightsFile(str(path), hashlib.sha256(data).hexdigest(), tensors, description, metadata)


def to_bytes(tensors: dict, description: ModelConfig | None, metadata: dict | None) -> bytes:
    """The bytes of a weights file.

    Raises:
        ValueError: if description or metadata are not of JSON types, or a tensor is not finite.
    """
    check_finite(tensors)
    header = {
        "sha256": _UNSEALED,
        "format_version": FORMAT_VERSION,
        "created_with": {
            "irnet_tf": irnet_tf.__version__,
            "tensorflow": tf.__version__,
            "larq": lq.__version__,
        },
        "facts": metadata or {},
    }
    if description is not None:
        header["description"] = description.to_dict()
    try:
        text = json.dumps(header, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            "what is said of a network must be of JSON types (dict, list, str, int, finite float, "
            f"bool, None): {error}"
        ) from error
    ordered = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    data = safetensors.numpy.save(ordered, {"irnet_tf": text})
    return _with_digest(data, hashlib.sha256(data).hexdigest())


def check_finite(tensors: dict[str, np.ndarray]) -> None:
    """Raises ValueError if a number is not finite, or a moving variance is negative."""
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds numbers that are not finite: the training has diverged")
        if name.endswith(".batch_norm") and values.ndim and (values[-1:] < 0).any():
            raise ValueError(f"{name} holds a negative moving variance")


def _check_seal(path, data):
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


def _header(data):
    def refuse(name):
        raise ValueError(f"its header holds {name}")

    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])
    return json.loads(outer["__metadata__"]["irnet_tf"], parse_constant=refuse)


def _with_digest(data, digest):
    start, end = _SEAL.match(data).span(1)
    return data[:start] + digest.encode() + data[end:]
