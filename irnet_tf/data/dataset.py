"""A data set and its splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import functools

import numpy as np
import tensorflow as tf
from tqdm import tqdm

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
OWN_IMAGES = (
    "a folder of your own images holds train/CLASS/* and test/CLASS/* (or val/CLASS/*), or CLASS/* "
    "with validation_split=0.2"
)

_DAMAGE = (tf.errors.InvalidArgumentError, tf.errors.DataLossError, tf.errors.NotFoundError)


class UnreadableImages(ValueError):
    """Images that cannot be decoded; `images` holds file names or positions with the reasons."""

    def __init__(self, images: list[str]):
        self.images = images
        super().__init__(
            f"{len(images)} image(s) cannot be read: {first_few(images, '; ')}\n"
            "Repair or remove them. `python -m irnet_tf.data FOLDER` lists them all."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Labelled images with random access.

    Attributes:
        num_examples: Number of images.
        read: Function from int64 indices `[...]` to uint8 images `[..., side, side, 3]` and int32
            labels `[...]`. If `side` is None, from one index (or one record of `open`) to the bytes
            of an image file and its label.
        side: Height and width of every image; None if sizes vary.
        describe: Function from an index to the image's file name or position.
        open: Function from an index to a `tf.data.Dataset` of the one record that `read` parses;
            None if `read` takes the index.
    """

    num_examples: int
    read: Callable
    side: int | None = None
    describe: Callable[[int], str] = "example {}".format
    open: Callable | None = None

    def example(self, index: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Image (or image file) and label of one example."""
        index = tf.constant(index, tf.int64)
        return self.read(index if self.open is None else self.open(index).get_single_element())

    def unreadable_images(self) -> list[str]:
        """Decodes every image file and describes those that fail."""
        if self.side is not None:
            return []

        def damaged(index):
            try:
                tf.io.decode_image(self.example(index)[0], 3, expand_animations=False)
                return False
            except (tf.errors.OpError, ValueError):
                return True

        with ThreadPoolExecutor() as pool:
            found = pool.map(damaged, range(self.num_examples))
            found = list(progress(found, "checking images", self.num_examples))
        return [f"{self.describe(i)} (damaged or truncated)" for i in np.flatnonzero(found)]


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        name: Name to print beside an accuracy.
        train, test: Splits.
        class_names: Names in the order of the labels.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def check_classes(self, trained: Sequence[str] | int) -> None:
        """Raises ValueError if a network was trained on other classes, given as names or number."""
        if isinstance(trained, int):
            same, theirs = trained == self.num_classes, f"{trained} classes"
        else:
            same = list(trained) == list(self.class_names)
            theirs = f"the classes {first_few(trained)}"
        if not same:
            raise ValueError(
                f"the network was trained on {theirs}, {self.name} has "
                f"{first_few(self.class_names)}; give the data_dir that it was trained on"
            )


@contextlib.contextmanager
def report_unreadable_images(data: Data) -> Iterator[None]:
    """Raises `UnreadableImages` if images cannot be decoded by a pipeline inside the context.

    Every image is then decoded once, with a progress bar. Other errors pass unchanged.
    """
    try:
        yield
    except _DAMAGE as error:
        if "IteratorGetNext" in str(error):
            bad = [*data.train.unreadable_images(), *data.test.unreadable_images()]
            if bad:
                raise UnreadableImages(bad) from error
        raise


def first_few(items: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return separator.join(items[:5]) + more


def progress(items, title: str, total: int, **options):
    """A progress bar that is drawn in a terminal only and disappears at the end."""
    return tqdm(items, title, total, leave=False, disable=None, **options)


def constants(*arrays) -> Callable:
    """A function that returns the arrays as tensors, which `tf.data` does not copy into graphs."""

    @functools.cache
    def tensors():
        with tf.init_scope(), tf.device("CPU:0"):
            return tuple(map(tf.constant, arrays))

    return tensors


def in_memory(images, labels) -> Split:
    """A split of uint8 images `[n, side, side, 3]` and their labels."""
    images, labels = np.asarray(images), np.asarray(labels, np.int32)
    tensors = constants(images, labels)

    def read(index):
        return tuple(tf.gather(tensor, index) for tensor in tensors())

    return Split(len(images), read, images.shape[1])
