"""Bytes of a weights file: written with a digest, checked completely before use."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re

from irnet_tf._utils import read_regular
from irnet_tf.model_config import ModelConfig
import numpy as np
import safetensors
import safetensors.numpy

FORMAT_VERSION = 1
MAX_BYTES = 1 << 30  # four times the float32 size of the largest network here

_SEAL = re.compile(rb'.{8}\{"__metadata__":\{"irnet_tf":"\{\\"sha256\\":\\"([0-9a-f]{64})', re.S)
_UNSEALED = 64 * "0"
_UNREADABLE = (
    ValueError, LookupError, TypeError, OverflowError, RecursionError, safetensors.SafetensorError
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """Content of an undamaged weights file.

    Attributes:
        path, sha256: Path and SHA-256 of the file.
        tensors: Tensors by name.
        model_config: Model config, or None if the file has none.
    """

    path: str
    sha256: str
    tensors: dict[str, np.ndarray]
    model_config: ModelConfig | None


def read(path: str | os.PathLike) -> WeightsFile:
    """Reads a weights file of at most `MAX_BYTES`. Nothing in it is executed.

    Raises:
        ValueError: If the file is not a weights file, is damaged, has another format version, or
            holds numbers that are not finite or an invalid model config.
        OSError: If the file cannot be read.
    """
    data = read_regular(path, MAX_BYTES)
    seal = _SEAL.match(data)
    if not seal:
        raise ValueError(f"{path} is not a 1-bit weights file of irnet_tf, or its start is damaged")
    if hashlib.sha256(_with_digest(data, _UNSEALED)).hexdigest() != seal[1].decode():
        raise ValueError(
            f"{path} is damaged or incomplete (its SHA-256 is not the one in its header); download "
            "or copy it again"
        )
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        outer = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        header = json.loads(outer["__metadata__"]["irnet_tf"])
        if header["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"it has format version {header['format_version']!r}, this irnet_tf reads version "
                f"{FORMAT_VERSION}; install the irnet_tf that wrote it"
            )
        if unknown := header.keys() - {"sha256", "format_version", "model_config"}:
            raise ValueError(f"its header has unknown entries: {', '.join(sorted(unknown))}")
        tensors = safetensors.numpy.load(data)
        check_finite(tensors)
        config = header.get("model_config")
        if config is not None:
            digests = {"file_sha256": sha256, "tensors_sha256": tensors_sha256(tensors)}
            config = dataclasses.replace(ModelConfig.from_dict(config), **digests)
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return WeightsFile(str(path), sha256, tensors, config)


def to_bytes(tensors: dict[str, np.ndarray], config: ModelConfig | None) -> bytes:
    """Returns the bytes of a weights file.

    Raises:
        ValueError: If the config has other than JSON types or a tensor is not finite.
    """
    check_finite(tensors)
    header = {"sha256": _UNSEALED, "format_version": FORMAT_VERSION}
    if config is not None:
        header["model_config"] = config.to_dict()
    try:
        text = json.dumps(header, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            "a model config must be of JSON types (dict, list, str, int, finite float, bool, "
            f"None): {error}"
        ) from error
    ordered = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    data = safetensors.numpy.save(ordered, {"irnet_tf": text})
    return _with_digest(data, hashlib.sha256(data).hexdigest())


def tensors_sha256(tensors: dict[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names and values, without `latent_std`, which depends on rounding."""
    digest = hashlib.sha256()
    for name in sorted(tensors.keys() - {"latent_std"}):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def check_finite(tensors: dict[str, np.ndarray]) -> None:
    """Raises ValueError if a number is not finite or a moving variance is negative."""
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has values that are not finite: training has diverged")
        if name.endswith(".batch_norm") and values.ndim and (values[-1:] < 0).any():
            raise ValueError(f"{name} has a negative moving variance")


def _with_digest(data, digest):
    start, end = _SEAL.match(data).span(1)
    return data[:start] + digest.encode() + data[end:]
