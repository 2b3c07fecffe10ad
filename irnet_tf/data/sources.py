"""Sources of labelled images: digits, CIFAR-10, ImageNet and a folder of one's own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import functools
import os
from pathlib import Path
import re
import struct

from absl import logging
from irnet_tf._checks import check_choice, nearest
import numpy as np
import tensorflow as tf
from tqdm import tqdm

_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled images that can be read in any order.

    Attributes:
        num_examples: how many.
        read: if `side` is not None, from int64 indices of any shape `[...]` to uint8 images
            `[..., side, side, 3]` and int32 labels `[...]`; else from one index to the bytes of
            an image file, string `[]`, and its label.
        side: height and width of every image, None where they differ.
        describe: from an index to what the image is called where it comes from.
        unreadable: `"stop"` or `"skip"`, what happens at an image that cannot be read.
    """

    num_examples: int
    read: Callable
    side: int | None = None
    describe: Callable[[int], str] = "example {}".format
    unreadable: str = "stop"


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        name: what it is, as it is to be named beside an accuracy.
        train, test: its splits.
        class_names: in the order of the labels.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def load(name: str, data_dir: str | None = None, *, unreadable: str = "stop") -> Data:
    """Open a data set.

    Args:
        name: `"digits"`, `"cifar10"` or `"imagenet2012"`. If `data_dir` holds a folder `train`
            of class folders, those images are taken instead: a user's own.
        data_dir: where the data is. For `"cifar10"` and `"imagenet2012"` the folder that
            TensorFlow Datasets prepared; without it TFDS's own default is used, and cifar10
            is downloaded if need be. For images of one's own: `train/CLASS/*.jpg|png` and
            `test/...` or `val/...`.
        unreadable: what happens at a broken image of a folder or of ImageNet. `"stop"`: an
            error names it. `"skip"`: a warning does; in training the next readable example
            stands in for it, in evaluation it is left out of the batch.

    Returns:
        The data set. Small ones are in memory; ImageNet and a folder are read when needed.

    Raises:
        ValueError: if the name or `unreadable` is not known, the folder is missing, empty, has
            no test images, has other classes in test than in train, or holds a file that is
            no image, or if a prepared data set is missing or damaged.
    """
    check_choice("unreadable", unreadable, ("stop", "skip"))
    if name not in _SOURCES:
        raise ValueError(
            f"unknown data set {name!r}; {nearest(name, _SOURCES)} Images of your own go by any "
            "of these names, with a data_dir that holds train/CLASS/*.jpg|png"
        )
    if data_dir is not None:
        root = Path(data_dir)
        if not root.is_dir():
            raise ValueError(f"data_dir {data_dir!r} is not a folder; check the path")
        if not any(root.iterdir()):
            raise ValueError(f"data_dir {data_dir!r} is empty; it should hold the images")
        if (root / "train").is_dir():
            return _folder(root, unreadable)
    return _SOURCES[name](data_dir, unreadable)


def _constants(*arrays) -> Callable:
    """Gives tensors of the arrays: captured by pipelines, not copied into their graphs."""

    @functools.cache
    def tensors():
        with tf.init_scope(), tf.device("CPU:0"):
            return tuple(map(tf.constant, arrays))

    return tensors


def _in_memory(images, labels) -> Split:
    images, labels = np.asarray(images), np.asarray(labels, np.int32)
    tensors = _constants(images, labels)

    def read(index):
        return tuple(tf.gather(tensor, index) for tensor in tensors())

    return Split(len(images), read, images.shape[1])


def _digits(data_dir, unreadable) -> Data:
    """scikit-learn's 1,797 handwritten digits, 8x8 enlarged to 32x32; a fifth is for testing."""
    del data_dir, unreadable
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = [Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC) for image in small]
    images = np.repeat(np.stack(large)[..., None], 3, axis=3)
    x, xt, y, yt = train_test_split(
        images, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    return Data(
        "digits (scikit-learn)",
        _in_memory(x, y),
        _in_memory(xt, yt),
        tuple(map(str, digits.target_names)),
    )


def _cifar10(data_dir, unreadable) -> Data:
    del unreadable
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar10", data_dir=data_dir)
    if not Path(builder.data_path).is_dir():
        if data_dir is not None:
            raise ValueError(
                f"{data_dir!r} holds no cifar10/{builder.version} that TensorFlow Datasets "
                f"prepared; `tfds build cifar10 --data_dir={data_dir}` makes it, and without "
                "--data_dir it is downloaded"
            )
        builder.download_and_prepare()
    splits = {}
    for split in ("train", "test"):
        count = builder.info.splits[split].num_examples
        images = np.empty((count, 32, 32, 3), np.uint8)
        labels = np.empty(count, np.int32)
        batches = tfds.as_numpy(builder.as_dataset(split=split, batch_size=1000))
        done = 0
        for batch in tqdm(batches, f"reading cifar10 {split}", count // 1000, leave=False):
            end = done + len(batch["label"])
            images[done:end], labels[done:end] = batch["image"], batch["label"]
            done = end
        splits[split] = _in_memory(images, labels)
    return Data(
        "CIFAR-10, JPEG copy" if _is_jpeg(builder) else "CIFAR-10",
        splits["train"],
        splits["test"],
        _CIFAR10_CLASSES,
    )


def _is_jpeg(builder) -> bool:
    """The original is stored as PNG; a lossy copy must be named as one."""
    import tensorflow_datasets as tfds

    encoded = builder.as_dataset(split="test[:1]", decoders={"image": tfds.decode.SkipDecoding()})
    return next(iter(encoded))["image"].numpy().startswith(b"\xff\xd8")


def _folder(root: Path, unreadable: str) -> Data:
    tests = [d for d in ("test", "val") if (root / d).is_dir()]
    if len(tests) != 1:
        found = "both" if tests else "neither"
        raise ValueError(
            f"{root} must hold a folder `train` and one of `test` or `val` with the images to "
            f"evaluate on; found {found}"
        )
    train, test = _class_files(root / "train"), _class_files(root / tests[0])
    if set(train) != set(test):
        raise ValueError(
            f"the classes in {root} differ: only in train: {sorted(set(train) - set(test))}; "
            f"only in {tests[0]}: {sorted(set(test) - set(train))}"
        )
    _check_headers([f for files in (*train.values(), *test.values()) for f in files], unreadable)
    classes = tuple(sorted(train))
    return Data(
        f"images of {root.resolve().name}",
        _files(classes, train, unreadable),
        _files(classes, test, unreadable),
        classes,
    )


def _class_files(folder: Path) -> dict[str, list[Path]]:
    classes = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            classes[child.name] = sorted(
                f for f in child.iterdir() if f.suffix.lower() in _SUFFIXES
            )
    if not classes:
        raise ValueError(f"{folder} holds no class folders; expected {folder.name}/CLASS/*.jpg|png")
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise ValueError(f"no {', '.join(_SUFFIXES)} files in {folder} for the classes {empty}")
    return classes


def _check_headers(files: list[Path], unreadable: str) -> None:
    from PIL import Image

    def broken(file):
        try:
            with Image.open(file) as image:
                image.verify()
        except Exception as error:
            return f"{file} ({error})"

    with ThreadPoolExecutor() as pool:
        progress = tqdm(pool.map(broken, files), "checking images", len(files), leave=False)
        problems = [problem for problem in progress if problem]
    if not problems:
        return
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    message = f"cannot read {len(problems)} image(s): {'; '.join(problems[:5])}{more}"
    if unreadable == "stop":
        raise ValueError(f"{message}; repair or remove them, or --unreadable=skip")
    logging.warning("%s; they will be skipped", message)


def _files(classes: tuple[str, ...], by_class: dict[str, list[Path]], unreadable: str) -> Split:
    paths = [str(f) for name in classes for f in by_class[name]]
    labels = [i for i, name in enumerate(classes) for _ in by_class[name]]
    tensors = _constants(np.array(paths), np.array(labels, np.int32))

    def read(index):
        path, label = (tf.gather(tensor, index) for tensor in tensors())
        return tf.io.read_file(path), label

    return Split(len(paths), read, describe=paths.__getitem__, unreadable=unreadable)


# ---- ImageNet ----------------------------------------------------------------------------------


def _imagenet2012(data_dir, unreadable) -> Data:
    import tensorflow_datasets as tfds

    root = Path(data_dir or tfds.core.constants.DATA_DIR)
    versions = {
        tuple(map(int, folder.name.split("."))): folder
        for folder in (root / "imagenet2012").glob("*")
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)
    }
    if not versions:
        raise ValueError(
            f"{root} holds no imagenet2012/VERSION that TensorFlow Datasets prepared. ImageNet "
            "is not free to download: get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
            "from https://image-net.org into a folder TARS; then `tfds build imagenet2012 "
            f"--data_dir={root} --manual_dir=TARS`"
        )
    folder = versions[max(versions)]
    builder = tfds.builder_from_directory(folder)
    missing = {"train", "validation"} - set(builder.info.splits)
    if missing:
        raise ValueError(f"{folder} lacks the split(s) {sorted(missing)}; prepare it anew")
    return Data(
        "ImageNet",
        _records(builder.info, "train", unreadable),
        _records(builder.info, "validation", unreadable),
        tuple(builder.info.features["label"].names),
    )


def _records(info, name: str, unreadable: str) -> Split:
    import tensorflow_datasets as tfds

    paths = list(map(str, info.splits[name].filepaths))
    counts = info.splits[name].shard_lengths
    with ThreadPoolExecutor(32) as pool:
        offsets = pool.map(_record_offsets, paths, counts)
        offsets = list(tqdm(offsets, f"indexing {name}", len(paths), unit="file", leave=False))
    shards, offsets = np.repeat(np.arange(len(paths)), counts), np.concatenate(offsets)
    tensors = _constants(np.array(paths), shards.astype(np.int32), offsets)
    as_stored = {"image": tfds.decode.SkipDecoding()}

    def read(index):
        paths, shards, offsets = tensors()
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(paths, [shards[index]]),
            compression_type="",
            buffer_size=tf.constant(0, tf.int64),
            byte_offsets=[offsets[index]],
        )
        records = tf.data.experimental.from_variant(records, tf.TensorSpec([], tf.string))
        example = info.features.deserialize_example(
            records.take(1).get_single_element(), decoders=as_stored
        )
        return example["image"], tf.cast(example["label"], tf.int32)

    def describe(index):
        path = paths[shards[index]]
        place = f"record {index - np.searchsorted(shards, shards[index])} of {path}"
        try:
            with open(path, "rb") as file:
                file.seek(offsets[index])
                length, _ = _RECORD_HEADER.unpack(file.read(_RECORD_HEADER.size))
                features = tf.train.Example.FromString(file.read(length)).features.feature
            return f"{features['file_name'].bytes_list.value[0].decode()} ({place})"
        except Exception:  # the record itself is what cannot be read
            return place

    return Split(len(shards), read, describe=describe, unreadable=unreadable)


_RECORD_HEADER = struct.Struct("<QI")  # length and its checksum; another follows the data


def _record_offsets(path: str, count: int) -> np.ndarray:
    """Where each of a TFRecord file's records begins, int64 `[count]`."""
    offsets = np.empty(count, np.int64)
    end = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for i in range(count):
            offsets[i] = end
            header = os.pread(file.fileno(), _RECORD_HEADER.size, end)
            if len(header) == _RECORD_HEADER.size:
                end += _RECORD_HEADER.size + _RECORD_HEADER.unpack(header)[0] + 4
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


_SOURCES = {"digits": _digits, "cifar10": _cifar10, "imagenet2012": _imagenet2012}
