"""Folders prepared by TensorFlow Datasets, opened without executing or trusting their content."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
import re
import struct

import numpy as np

RECORD_HEADER = struct.Struct("<QI")  # length and its checksum; the data's checksum is at the end

# TFDS imports the Python classes that `features.json` names, so a downloaded folder could run any
# code. CIFAR-10 and ImageNet need these classes only.
_FEATURES = {
    "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "tensorflow_datasets.core.features.image_feature.Image",
    "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
    "tensorflow_datasets.core.features.text_feature.Text",
    "tensorflow_datasets.core.features.scalar.Scalar",
    "tensorflow_datasets.core.features.tensor_feature.Tensor",
}


def newest_version(root: Path, name: str) -> Path | None:
    """The folder `root/name/MAJOR.MINOR.PATCH` of the highest version; None if there is none."""
    versions = {
        tuple(map(int, folder.name.split("."))): folder
        for folder in (root / name).glob("*")
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.name) and folder.is_dir()
    }
    return versions[max(versions)] if versions else None


def open_builder(folder: Path, splits: tuple[str, ...], classes: int):
    """The TFDS builder of a prepared folder.

    Args:
        folder: Result of `newest_version`.
        splits: Names of the required splits.
        classes: Required number of classes.

    Raises:
        ValueError: If the folder is damaged, lacks a split, or names other Python classes than
            `_FEATURES`.
    """
    import tensorflow_datasets as tfds

    for name in ("features.json", "dataset_info.json"):
        _check_file(folder / name)
        if (folder / name).stat().st_size > 10_000_000:
            raise ValueError(f"{folder / name} is larger than 10 MB; prepare it again")
    _check_features(folder / "features.json")
    with as_value_error(folder):
        builder = tfds.builder_from_directory(folder)
        missing = sorted(set(splits) - set(builder.info.splits))
        if missing:
            raise ValueError(f"the split(s) {missing} are missing")
        if builder.info.features["label"].num_classes != classes:
            raise ValueError(f"it does not have {classes} classes")
        files = [Path(path) for name in splits for path in builder.info.splits[name].filepaths]
    for file in files:
        _check_file(file)
    return builder


def _check_file(path: Path) -> None:
    if not path.is_file():  # reading a pipe would block
        problem = "is not a regular file" if path.exists() else "is missing"
        raise ValueError(f"{path} {problem}; copy it again, or prepare it again")


@contextlib.contextmanager
def as_value_error(path: Path):
    """Turns any exception inside the context into a ValueError that names the file or folder."""
    try:
        yield
    except Exception as error:  # parsers raise various types
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"{path} is damaged or was not prepared by TensorFlow Datasets "
            f"({type(error).__name__}: {reason[:200]}); copy it again, or prepare it again"
        ) from error


def _check_features(path: Path) -> None:
    found = set()

    def collect(pairs):
        found.update(text for pair in pairs for text in pair if isinstance(text, str))

    with as_value_error(path):
        json.loads(path.read_text(), object_pairs_hook=collect)
    unknown = sorted(text for text in found - _FEATURES if "." in text)
    if unknown:
        raise ValueError(
            f"{path} names the Python classes {', '.join(map(repr, unknown[:3]))}, which this data "
            "set does not need; prepare it again with TensorFlow Datasets"
        )


def record_offsets(path: str, count: int) -> np.ndarray:
    """Start of each record in a TFRecord file, int64 `[count]`.

    Raises:
        ValueError: If the file does not hold exactly `count` records.
    """
    end = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # A record has at least 16 bytes: `count` may be wrong and must not decide on memory.
        offsets = np.empty(min(count, size // 16 + 1), np.int64)
        for i in range(count):
            offsets[i] = end
            header = os.pread(file.fileno(), RECORD_HEADER.size, end)
            if len(header) == RECORD_HEADER.size:
                end += RECORD_HEADER.size + RECORD_HEADER.unpack(header)[0] + 4
            if end > size or end == offsets[i]:
                break
        else:
            if end == size:
                return offsets
    raise ValueError(
        f"{path} does not hold exactly {count} records; copy it again, or prepare it again"
    )
