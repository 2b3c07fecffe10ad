"""Sources of labelled images: digits, CIFAR-10 and a folder of one's own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import functools
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled images that can be read in any order.

    Attributes:
        num_examples: how many.
        read: from an int64 index to `(uint8 image [height, width, 3], int32 label)`; if `side`
            is not None, from indices `[b]` to `(images [b, side, side, 3], labels [b])` too.
        side: height and width of every image, None where they differ.
        find_unreadable: called when reading has failed; names the images that cannot be read.
    """

    num_examples: int
    read: Callable
    side: int | None = None
    find_unreadable: Callable[[], list[str]] = list


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        name: what it is, as it is to be named beside an accuracy.
        train, test: its splits.
        class_names: in the order of the labels.
        mean, std: per channel, of images between 0 and 1.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def load(name: str, data_dir: str | None = None) -> Data:
    """Open a data set.

    Args:
        name: `"digits"` or `"cifar10"`. If `data_dir` holds a folder `train` of class
            folders, those images are taken instead, whatever the name: a user's own.
        data_dir: where the data is. For `"cifar10"` the folder that TensorFlow Datasets
            prepared; without it TFDS's own default is used, and downloads if need be. For
            images of one's own: `train/CLASS/*.jpg|png` and `test/...` or `val/...`.

    Returns:
        The data set. Small ones are in memory; files of a folder are read when needed.

    Raises:
        ValueError: if the name is not known, or the folder is missing, empty, has no test
            images, has other classes in test than in train, or holds a file that is no image.
    """
    if data_dir is not None:
        root = Path(data_dir)
        if not root.is_dir():
            raise ValueError(f"data_dir {data_dir!r} is not a folder; check the path")
        if not any(root.iterdir()):
            raise ValueError(f"data_dir {data_dir!r} is empty; it should hold the images")
        if (root / "train").is_dir():
            return _folder(root)
    if name not in _SOURCES:
        raise ValueError(
            f"unknown data set {name!r}; known are {', '.join(_SOURCES)}, and a data_dir that "
            "holds train/CLASS/*.jpg|png"
        )
    return _SOURCES[name](data_dir)


def _in_memory(images, labels) -> Split:
    images, labels = np.asarray(images), np.asarray(labels, np.int32)

    @functools.cache
    def tensors():
        with tf.init_scope(), tf.device("CPU:0"):  # captured by pipelines, not copied into them
            return tf.constant(images), tf.constant(labels)

    def read(index):
        return tuple(tf.gather(tensor, index) for tensor in tensors())

    return Split(len(images), read, images.shape[1])


def _digits(data_dir) -> Data:
    """scikit-learn's 1,797 handwritten digits, 8x8 enlarged to 32x32; a fifth is for testing."""
    del data_dir
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
        (0.5,) * 3,
        (0.5,) * 3,
    )


def _cifar10(data_dir) -> Data:
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
        CIFAR10_MEAN,
        CIFAR10_STD,
    )


def _is_jpeg(builder) -> bool:
    """The original is stored as PNG; a lossy copy must be named as one."""
    import tensorflow_datasets as tfds

    encoded = builder.as_dataset(split="test[:1]", decoders={"image": tfds.decode.SkipDecoding()})
    return next(iter(encoded))["image"].numpy().startswith(b"\xff\xd8")


def _folder(root: Path) -> Data:
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
    _check_headers([f for files in (*train.values(), *test.values()) for f in files])
    classes = tuple(sorted(train))
    return Data(
        f"images of {root.resolve().name}",
        _files(classes, train),
        _files(classes, test),
        classes,
        IMAGENET_MEAN,
        IMAGENET_STD,
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


def _check_headers(files: list[Path]) -> None:
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
    _refuse(problems)


def _refuse(unreadable: list[str]) -> None:
    if unreadable:
        more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        raise ValueError(
            f"cannot read {len(unreadable)} image(s): {'; '.join(unreadable[:5])}{more}; repair "
            "or remove them"
        )


def _decode(path):
    image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def _files(classes: tuple[str, ...], by_class: dict[str, list[Path]]) -> Split:
    paths = [str(f) for name in classes for f in by_class[name]]
    labels = [i for i, name in enumerate(classes) for _ in by_class[name]]

    def read(index):
        return _decode(tf.gather(tf.constant(paths), index)), tf.gather(tf.constant(labels), index)

    def find_unreadable():
        problems = []
        for path in tqdm(paths, "looking for the unreadable image", leave=False):
            try:
                _decode(path)
            except tf.errors.OpError as error:
                problems.append(f"{path} ({error.message.splitlines()[0]})")
        return problems

    return Split(len(paths), read, find_unreadable=find_unreadable)


_SOURCES = {"digits": _digits, "cifar10": _cifar10}
