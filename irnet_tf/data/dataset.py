"""What a data set is, and how one is opened by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os
from pathlib import Path
import tempfile
import weakref

from absl import logging
import numpy as np
import tensorflow as tf

OWN_IMAGES = "a folder of your own holds train/CLASS/*.jpg|png and test/CLASS/... or val/CLASS/..."


class UnreadableImages(ValueError):
    """Images cannot be read.

    Attributes:
        images: what they are called where they come from.
    """

    def __init__(self, images: list[str]):
        self.images = list(images)
        more = f" and {len(images) - 5} more" if len(images) > 5 else ""
        super().__init__(
            f"cannot read image(s) {'; '.join(images[:5])}{more}; repair or remove them, or leave "
            "them out with unreadable='skip'"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Labelled images that can be read in any order.

    Attributes:
        num_examples: how many.
        read: if `side` is not None, from int64 indices of any shape `[...]` to uint8 images
            `[..., side, side, 3]` and int32 labels `[...]`; else from one index (or what `open`
            gives for it) to the bytes of an image file, string `[]`, and its label.
        side: height and width of every image, None where they differ.
        describe: from an index to what the image is called where it comes from.
        unreadable: `"stop"` or `"skip"`, what happens at an image that cannot be read.
        open: from an index to a `tf.data.Dataset` of the one record that `read` then takes; None
            where `read` takes the index itself.
    """

    num_examples: int
    read: Callable
    side: int | None = None
    describe: Callable[[int], str] = "example {}".format
    unreadable: str = "stop"
    open: Callable | None = None

    def example(self, index):
        """The image (or file) and label of one example."""
        if self.open is None:
            return self.read(tf.constant(index, tf.int64))
        return self.read(self.open(tf.constant(index, tf.int64)).get_single_element())

    @functools.cached_property
    def journal(self) -> Journal:
        """Where pipelines note which examples they could not read."""
        return Journal(self.describe, self.unreadable)

    def skipped(self) -> list[int]:
        """Indices of the examples that this process could not read so far, in that order.

        A warning names those that are new since the last call.
        """
        self.journal.warn()
        return self.journal.each_once()


class Journal:
    """A file of indices that pipelines write and Python reads.

    TensorFlow runs a pipeline in parallel under op determinism only if nothing in it can change
    a state, such as that of a Python function. It lets `tf.print` pass.
    """

    all = weakref.WeakSet()

    def __init__(self, describe: Callable[[int], str], unreadable: str):
        self.describe = describe
        self.unreadable = unreadable
        handle, self.path = tempfile.mkstemp(prefix="irnet_tf_unreadable_")
        os.close(handle)
        weakref.finalize(self, lambda path: Path(path).unlink(missing_ok=True), self.path)
        self._told = 0
        self.all.add(self)

    def write(self, indices: tf.Tensor) -> tf.Operation:
        """Add indices, int64 `[n]`; an operation of a graph."""
        return tf.print(indices, summarize=-1, output_stream=f"file://{self.path}")

    def read(self) -> list[list[int]]:
        """What was written, in that order."""
        lines = Path(self.path).read_text().splitlines()
        return [list(map(int, line.strip("[]").split())) for line in lines]

    def each_once(self) -> list[int]:
        return list(dict.fromkeys(index for written in self.read() for index in written))

    def warn(self) -> None:
        """Name those that were skipped and not named yet."""
        met = self.each_once()
        new, self._told = met[self._told :], len(met)
        if new and self.unreadable == "skip":
            more = f" and {len(new) - 5} more" if len(new) > 5 else ""
            named = "; ".join(map(self.describe, new[:5]))
            logging.warning(
                "%d image(s) could not be read and were skipped: %s%s", len(met), named, more
            )


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        name: what it is, as it is to be named beside an accuracy.
        train, test: its splits.
        class_names: in the order of the labels.

    Raises:
        ValueError: if class names are not strings.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    def __post_init__(self):
        names = self.class_names
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"class_names must be names of classes, got {names!r}")
        object.__setattr__(self, "class_names", tuple(names))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def check_classes(self, trained: Sequence[str] | int) -> None:
        """Raises ValueError if a network was trained on other classes.

        Args:
            trained: names in the order of the outputs; or how many outputs there are, where
                names are not known.
        """
        if isinstance(trained, int):
            same, theirs = trained == self.num_classes, f"{trained} classes"
        else:
            same, theirs = tuple(trained) == self.class_names, f"the classes {_few(trained)}"
        if not same:
            raise ValueError(
                f"the network was trained on {theirs}, {self.name} has {_few(self.class_names)}; "
                "give the data_dir that it was trained on"
            )


def _few(names):
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def constants(*arrays) -> Callable:
    """Gives tensors of the arrays: captured by pipelines, not copied into their graphs."""

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


def advice(folder: str | os.PathLike) -> str:
    """How a folder that is not what was asked for might be meant."""
    children = sorted(child for child in Path(folder).iterdir() if child.is_dir())
    names = {child.name.lower(): child.name for child in children}
    if "train" in names:
        return f". The folder {names['train']!r} must be called 'train' for images of your own"
    images = {".jpg", ".jpeg", ".png"}
    holds_images = [
        child.name
        for child in children
        if any(file.suffix.lower() in images for file in child.iterdir())
    ]
    if holds_images:
        return (
            f". It holds images in {', '.join(holds_images[:3])}: if these are classes of your "
            "own, put them into train/CLASS and test/CLASS, or give validation_split=0.2 to test "
            "on a fifth of them"
        )
    return f". For images of your own, {OWN_IMAGES}"
