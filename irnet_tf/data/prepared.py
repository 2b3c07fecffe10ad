"""CIFAR-10 and ImageNet in folders that TensorFlow Datasets (TFDS) prepared.

The files are read without TFDS, which would import the Python classes that `features.json` names.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import contextlib
import json
import logging
import os
from pathlib import Path
import re
import sys

from irnet_tf._utils import read_regular
from irnet_tf.data.dataset import OWN_IMAGES, Data, Split, constants, in_memory, progress
import numpy as np
import tensorflow as tf

_CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
_AGAIN = "copy it again, or prepare it again with TensorFlow Datasets"


def cifar10(data_dir: str | None = None) -> Data:
    """The newest `cifar10/VERSION` in `data_dir`, in memory; by default TFDS downloads it."""
    folder = _newest(Path(data_dir), "cifar10") if data_dir is not None else _downloaded()
    if folder is None:
        raise ValueError(
            f"{data_dir!r} holds no cifar10/VERSION of TensorFlow Datasets. `tfds build cifar10 "
            f"--data_dir={data_dir}` makes it; without data_dir it is downloaded. Besides, "
            f"{OWN_IMAGES}"
        )

    def decode(record):
        file, label = _parse(record, len(_CIFAR10))
        image = tf.io.decode_image(file, 3, expand_animations=False)
        return tf.ensure_shape(image, (32, 32, 3)), label

    def read(split):
        paths, starts = _shards(folder, split)
        with _as_value_error(folder):
            examples = tf.data.TFRecordDataset(paths).map(decode, tf.data.AUTOTUNE)
            return in_memory(*examples.batch(sum(map(len, starts))).get_single_element())

    return Data("CIFAR-10", read("train"), read("test"), _CIFAR10)


def imagenet2012(data_dir: str | None = None) -> Data:
    """The newest `imagenet2012/VERSION` in `data_dir`, by default TFDS's own folder."""
    if data_dir is None:
        import tensorflow_datasets as tfds

        data_dir = tfds.core.constants.DATA_DIR
    folder = _newest(Path(data_dir), "imagenet2012")
    if folder is None:
        raise ValueError(
            f"{data_dir} holds no imagenet2012/VERSION of TensorFlow Datasets (--data_dir). Get "
            "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org into "
            f"a folder TARS; then `tfds build imagenet2012 --data_dir={data_dir} "
            f"--manual_dir=TARS`. Besides, {OWN_IMAGES}"
        )
    labels = folder / "label.labels.txt"
    with _as_value_error(labels):
        names = tuple(read_regular(labels, 1_000_000).decode().split())
        if len(names) != 1000:
            raise ValueError(f"{len(names)} class names instead of 1000")
    splits = (_records(folder, split, len(names)) for split in ("train", "validation"))
    return Data("ImageNet", *splits, names)


def _newest(root: Path, name: str) -> Path | None:
    """The folder `root/name/MAJOR.MINOR.PATCH` of the highest version; None if there is none."""
    versions = {
        tuple(map(int, folder.name.split("."))): folder
        for folder in (root / name).glob("*")
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.name) and folder.is_dir()
    }
    return versions[max(versions)] if versions else None


def _downloaded() -> Path:
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar10")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    if not Path(builder.data_path).is_dir():
        print("downloading CIFAR-10; --data_dir names a folder that holds it", file=sys.stderr)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each retry
    try:
        builder.download_and_prepare()  # returns at once if the folder exists
    except OSError as error:
        raise ValueError(
            f"CIFAR-10 cannot be downloaded ({type(error).__name__}); give --data_dir, a folder "
            "with cifar10/VERSION of TensorFlow Datasets"
        ) from error
    return Path(builder.data_path)


@contextlib.contextmanager
def _as_value_error(path: Path):
    """Turns any exception inside the context into a ValueError that names the file or folder."""
    try:
        yield
    except Exception as error:  # parsers raise various types
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {reason[:200]}); {_AGAIN}"
        ) from error


def _shards(folder: Path, split: str) -> tuple[list[str], list[np.ndarray]]:
    """Paths of a split's TFRecord files, and the positions of the records in each."""
    with _as_value_error(folder / "dataset_info.json"):
        info = json.loads(read_regular(folder / "dataset_info.json", 10_000_000))
        [counts] = [s["shardLengths"] for s in info["splits"] if s["name"] == split]
        counts = list(map(int, counts))
    name = f"{folder.parent.name}-{split}.tfrecord"
    paths = [folder / f"{name}-{i:05}-of-{len(counts):05}" for i in range(len(counts))]
    with ThreadPoolExecutor(32) as pool:
        starts = pool.map(_record_starts, paths, counts)
        starts = list(progress(starts, f"indexing {split}", len(paths), unit="file"))
    if not sum(counts):
        raise ValueError(f"{split} of {folder} holds no images; {_AGAIN}")
    return list(map(str, paths)), starts


def _record_starts(path: Path, count: int) -> np.ndarray:
    if not path.is_file():  # reading a pipe would block
        raise ValueError(f"{path} is missing or not a regular file; {_AGAIN}")
    starts, end, size = [], 0, path.stat().st_size
    with open(path, "rb") as file:
        while end < size:
            starts.append(end)
            # A record: length of the data, its checksum, the data, their checksum.
            end += 8 + 4 + int.from_bytes(os.pread(file.fileno(), 8, end), "little") + 4
    if end != size or len(starts) != count:
        raise ValueError(f"{path} does not hold exactly {count} records; {_AGAIN}")
    return np.array(starts, np.int64)


def _parse(record: tf.Tensor, classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Image file and label of a record."""
    fields = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    example = tf.io.parse_single_example(record, fields)
    # `gather` fails if a label is out of range.
    return example["image"], tf.gather(tf.range(classes), example["label"])


def _records(folder: Path, split: str, classes: int) -> Split:
    paths, starts = _shards(folder, split)
    shards = np.repeat(np.arange(len(paths), dtype=np.int32), list(map(len, starts)))
    tensors = constants(np.array(paths), shards, np.concatenate(starts))

    def open_record(index):
        paths, shards, offsets = tensors()
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(paths, [shards[index]]),
            compression_type="",
            buffer_size=tf.constant(0, tf.int64),
            byte_offsets=[offsets[index]],
        )
        return tf.data.experimental.from_variant(records, tf.TensorSpec([], tf.string)).take(1)

    def describe(index):
        number = index - np.searchsorted(shards, shards[index])
        position = f"record {number} of {paths[shards[index]]}"
        try:
            record = open_record(index).get_single_element().numpy()
            features = tf.train.Example.FromString(record).features.feature
            return f"{features['file_name'].bytes_list.value[0].decode()} ({position})"
        except Exception:  # a damaged record
            return position

    def read(record):
        return _parse(record, classes)

    return Split(len(shards), read, None, describe, open_record)
