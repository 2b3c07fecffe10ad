"""CIFAR-10 as TensorFlow Datasets prepares it, read into memory."""

from __future__ import annotations

from pathlib import Path
import sys

from irnet_tf.data.dataset import OWN_IMAGES, Data, in_memory
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
        try:
            builder.download_and_prepare()
        except OSError as error:
            raise ValueError(
                f"CIFAR-10 cannot be downloaded ({type(error).__name__}); give --data_dir, a "
                "folder with cifar10/VERSION of TensorFlow Datasets"
            ) from error
    return Path(builder.data_path)


def _read(builder, split):
    import tensorflow_datasets as tfds

    count = builder.info.splits[split].num_examples
    examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    images, labels = examples["image"], examples["label"]
    if images.shape != (count, 32, 32, 3) or not set(labels) <= set(range(len(_CLASSES))):
        raise ValueError(f"{split} does not hold {count} images [32, 32, 3] with labels 0 to 9")
    return in_memory(images.astype(np.uint8, casting="safe"), labels)
