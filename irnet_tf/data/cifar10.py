"""CIFAR-10 as TensorFlow Datasets prepares it, read into memory."""

from __future__ import annotations

from pathlib import Path
import sys

from irnet_tf.data.dataset import OWN_IMAGES, Data, in_memory, progress
from irnet_tf.data.tfds_folder import (
    as_value_error,
    newest_version,
    open_builder,
    record_offsets,
)
import numpy as np

_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip


def load(data_dir: str | None = None) -> Data:
    """The newest `cifar10/VERSION` in `data_dir`. Without `data_dir`, TFDS downloads it.

    Raises:
        ValueError: If `data_dir` holds no such folder or it is damaged.
    """
    folder = newest_version(Path(data_dir), "cifar10") if data_dir is not None else _downloaded()
    if folder is None:
        raise ValueError(
            f"{data_dir!r} holds no cifar10/VERSION of TensorFlow Datasets. `tfds build cifar10 "
            f"--data_dir={data_dir}` makes it; without data_dir it is downloaded. Besides, "
            f"{OWN_IMAGES}"
        )
    builder = open_builder(folder, ("train", "test"), len(_CLASSES))
    for split in map(builder.info.splits.get, ("train", "test")):
        for path, count in zip(split.filepaths, split.shard_lengths):
            record_offsets(str(path), count)
    with as_value_error(folder):
        train, test = (_read(builder, split) for split in ("train", "test"))
    return Data("CIFAR-10", train, test, _CLASSES)


def _downloaded() -> Path:
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar10")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    if not Path(builder.data_path).is_dir():
        builder.download_and_prepare()
    return Path(builder.data_path)


def _read(builder, split):
    import tensorflow_datasets as tfds

    count = builder.info.splits[split].num_examples
    batches = tfds.as_numpy(builder.as_dataset(split=split, batch_size=1000))
    parts = list(progress(batches, f"reading cifar10 {split}", -(-count // 1000)))
    images = np.concatenate([part["image"] for part in parts])
    labels = np.concatenate([part["label"] for part in parts])
    if not len(images) == len(labels) == count or images.shape[1:] != (32, 32, 3):
        raise ValueError(
            f"{split} holds images {list(images.shape)} and {len(labels)} labels instead of "
            f"{[count, 32, 32, 3]}"
        )
    if labels.min() < 0 or labels.max() >= len(_CLASSES):
        raise ValueError(f"{split} has the label {labels.max()}; there are {len(_CLASSES)} classes")
    return in_memory(images.astype(np.uint8, casting="safe"), labels)
