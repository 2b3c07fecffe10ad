"""ImageNet as TensorFlow Datasets prepares it, with random access to the records."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from irnet_tf.data.dataset import OWN_IMAGES, Data, Split, constants, progress
from irnet_tf.data.tfds_folder import (
    RECORD_HEADER,
    as_value_error,
    newest_version,
    open_builder,
    record_offsets,
)
import numpy as np
import tensorflow as tf

_CLASSES = 1000


def load(data_dir: str | None = None) -> Data:
    """The newest `imagenet2012/VERSION` in `data_dir`, by default TFDS's own folder.

    Raises:
        ValueError: If there is none or it is damaged.
    """
    import tensorflow_datasets as tfds

    root = Path(data_dir or tfds.core.constants.DATA_DIR)
    folder = newest_version(root, "imagenet2012")
    if folder is None:
        raise ValueError(
            f"{root} holds no imagenet2012/VERSION of TensorFlow Datasets (--data_dir). Get "
            "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org into "
            f"a folder TARS; then `tfds build imagenet2012 --data_dir={root} --manual_dir=TARS`. "
            f"Besides, {OWN_IMAGES}"
        )
    builder = open_builder(folder, ("train", "validation"), _CLASSES)
    with as_value_error(folder):
        names = tuple(builder.info.features["label"].names or map(str, range(_CLASSES)))
    train, test = (_records(builder.info, split) for split in ("train", "validation"))
    return Data("ImageNet", train, test, names)


def _records(info, name: str) -> Split:
    paths = list(map(str, info.splits[name].filepaths))
    counts = info.splits[name].shard_lengths
    with ThreadPoolExecutor(32) as pool:
        offsets = pool.map(record_offsets, paths, counts)
        offsets = list(progress(offsets, f"indexing {name}", len(paths), unit="file"))
    shards, offsets = np.repeat(np.arange(len(paths)), counts), np.concatenate(offsets)
    if not len(shards):
        raise ValueError(f"{name} of {Path(paths[0]).parent} holds no images; prepare it again")
    tensors = constants(np.array(paths), shards.astype(np.int32), offsets)
    fields = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

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
        # `gather` fails if a label is out of range.
        return example["image"], tf.gather(tf.range(_CLASSES), example["label"])

    def describe(index):
        path = paths[shards[index]]
        position = f"record {index - np.searchsorted(shards, shards[index])} of {path}"
        try:
            with open(path, "rb") as file:
                file.seek(offsets[index])
                length, _ = RECORD_HEADER.unpack(file.read(RECORD_HEADER.size))
                features = tf.train.Example.FromString(file.read(length)).features.feature
            return f"{features['file_name'].bytes_list.value[0].decode()} ({position})"
        except Exception:  # a damaged record
            return position

    return Split(len(shards), read, None, describe, open_record)
