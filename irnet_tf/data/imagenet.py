"""ImageNet as TensorFlow Datasets prepares it: any record is read where it lies in its file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from irnet_tf.data.dataset import Data, Split, advice, constants
from irnet_tf.data.tfds_folder import (
    RECORD_HEADER,
    damage,
    newest_version,
    open_builder,
    record_offsets,
)
import numpy as np
import tensorflow as tf
from tqdm import tqdm

_CLASSES = 1000


def load(data_dir: str | None = None, unreadable: str = "stop") -> Data:
    """The newest `imagenet2012/VERSION` in `data_dir`, or in TFDS's own folder.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    import tensorflow_datasets as tfds

    root = Path(data_dir or tfds.core.constants.DATA_DIR)
    folder = newest_version(root, "imagenet2012")
    if folder is None:
        raise ValueError(
            f"{root} holds no imagenet2012/VERSION that TensorFlow Datasets prepared. ImageNet "
            "is not free to download: get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
            "from https://image-net.org into a folder TARS; then `tfds build imagenet2012 "
            f"--data_dir={root} --manual_dir=TARS`{advice(root) if root.is_dir() else ''}"
        )
    builder = open_builder(folder, ("train", "validation"), _CLASSES)
    with damage(folder):
        names = tuple(builder.info.features["label"].names or map(str, range(_CLASSES)))
    return Data(
        "ImageNet",
        _records(builder.info, "train", unreadable),
        _records(builder.info, "validation", unreadable),
        names,
    )


def _records(info, name: str, unreadable: str) -> Split:
    paths = list(map(str, info.splits[name].filepaths))
    counts = info.splits[name].shard_lengths
    with ThreadPoolExecutor(32) as pool:
        offsets = pool.map(record_offsets, paths, counts)
        offsets = list(
            tqdm(offsets, f"indexing {name}", len(paths), unit="file", leave=False, disable=None)
        )
    shards, offsets = np.repeat(np.arange(len(paths)), counts), np.concatenate(offsets)
    if not len(shards):
        raise ValueError(f"{name} of {Path(paths[0]).parent} holds no images; prepare it anew")
    tensors = constants(np.array(paths), shards.astype(np.int32), offsets)
    fields = {"image": tf.io.FixedLenFeature([], tf.string)}
    fields["label"] = tf.io.FixedLenFeature([], tf.int64)

    def open_record(index):
        paths, shards, offsets = tensors()
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(paths, [shards[index]]),
            compression_type="",
            buffer_size=tf.constant(0, tf.int64),
            byte_offsets=[offsets[index]],
        )
        return tf.data.experimental.from_variant(records, tf.TensorSpec([], tf.string)).take(1)

    def read(record):
        example = tf.io.parse_single_example(record, fields)
        # A label that is none fails here, as an image that cannot be read does.
        label = tf.gather(tf.range(_CLASSES), example["label"])
        return example["image"], label

    def describe(index):
        path = paths[shards[index]]
        place = f"record {index - np.searchsorted(shards, shards[index])} of {path}"
        try:
            with open(path, "rb") as file:
                file.seek(offsets[index])
                length, _ = RECORD_HEADER.unpack(file.read(RECORD_HEADER.size))
                features = tf.train.Example.FromString(file.read(length)).features.feature
            return f"{features['file_name'].bytes_list.value[0].decode()} ({place})"
        except Exception:  # the record itself is what cannot be read
            return place

    return Split(len(shards), read, None, describe, unreadable, open_record)
