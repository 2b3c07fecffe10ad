"""Folders that TensorFlow Datasets prepared: opened without trust in what they say."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
import re
import struct

import numpy as np

RECORD_HEADER = struct.Struct("<QI")  # length and its checksum; another follows the data

# `features.json` names the Python classes of the features, which TFDS imports: of a stranger's
# folder that is code of the stranger's choice. These are all that CIFAR-10 and ImageNet have.
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
    """The TFDS builder of a prepared folder, whose files were seen to be there.

    Args:
        folder: as `newest_version` gives it.
        splits: that the data set must have.
        classes: how many it must have.

    Raises:
        ValueError: if the folder is damaged, lacks a split, or asks for Python code that these
            data sets do not need.
    """
    import tensorflow_datasets as tfds

    for name in ("features.json", "dataset_info.json"):
        _check_file(folder / name, 10_000_000)
    _check_features(folder / "features.json")
    with damage(folder):
        builder = tfds.builder_from_directory(folder)
        missing = sorted(set(splits) - set(builder.info.splits))
        if missing:
            raise ValueError(f"it lacks the split(s) {missing}")
        if builder.info.features["label"].num_classes != classes:
            raise ValueError(f"its images are not of {classes} classes")
        files = [Path(path) for name in splits for path in builder.info.splits[name].filepaths]
    for file in files:
        _check_file(file)
    return builder


def _check_file(path: Path, most_bytes: int | None = None) -> None:
    if not path.exists():
        raise ValueError(f"{path} is missing; copy it again, or prepare it anew")
    if not path.is_file():  # a pipe would keep us waiting for ever
        raise ValueError(f"{path} is no regular file; copy it again, or prepare it anew")
    if most_bytes is not None and path.stat().st_size > most_bytes:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, too many for what it is")


@contextlib.contextmanager
def damage(path: Path):
    """What reading damaged files raises comes as a ValueError that names the file or folder."""
    try:
        yield
    except Exception as error:  # parsers raise what they like
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"{path} is damaged or not what TensorFlow Datasets prepared "
            f"({type(error).__name__}: {reason[:200]}); copy it again, or prepare it anew"
        ) from error


def _check_features(path: Path) -> None:
    def strings(value):
        if isinstance(value, dict):
            value = [*value, *value.values()]
        if isinstance(value, list):
            for inner in value:
                yield from strings(inner)
        elif isinstance(value, str):
            yield value

    with damage(path):
        found = set(strings(json.loads(path.read_text())))
    strange = sorted(text for text in found - _FEATURES if "." in text)  # names of classes
    if strange:
        raise ValueError(
            f"{path} asks for {', '.join(map(repr, strange[:3]))}, which this data set does not "
            "need and which may do harm; prepare it anew with TensorFlow Datasets"
        )


def record_offsets(path: str, count: int) -> np.ndarray:
    """Where each of a TFRecord file's records begins, int64 `[count]`.

    Raises:
        ValueError: if it does not end after so many records.
    """
    end = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # A record takes 16 bytes at least: what is said of their number need not be true.
        offsets = np.empty(min(count, size // 16 + 1), np.int64)
        for i in range(count):
            offsets[i] = end
            header = os.pread(file.fileno(), RECORD_HEADER.size, end)
            if len(header) == RECORD_HEADER.size:
                end += RECORD_HEADER.size + RECORD_HEADER.unpack(header)[0] + 4
            if end > size or end == offsets[i]:
                raise ValueError(
                    f"{path} ends in record {i} of {count}; copy it again, or prepare it anew"
                )
    if end != size:
        raise ValueError(
            f"{path} should end after {count} records, at byte {end}, but has {size} bytes; "
            "copy it again, or prepare it anew"
        )
    return offsets
