"""A folder of a user's own images: `train/CLASS/*.jpg|png` and `test/...` or `val/...`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import hashlib
import os
from pathlib import Path

from absl import logging
from irnet_tf.data.dataset import Data, Split, UnreadableImages, constants
import numpy as np
import tensorflow as tf
from tqdm import tqdm

_SUFFIXES = (".jpg", ".jpeg", ".png")
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP")  # of content, whatever the name; MPO is JPEG
_MOST_PIXELS = 89_478_485  # a gigabyte and more once it is numbers; Pillow warns above it


def load(root: Path, unreadable: str, validation_split: float | None) -> Data:
    """Args, returns and raises as of `irnet_tf.data.load`."""
    train_folder = root / "train" if (root / "train").is_dir() else root
    tests = [name for name in ("test", "val") if (root / name).is_dir()]
    ignored: list[Path] = []
    train = _class_files(train_folder, ignored)
    if validation_split is not None:
        if tests and train_folder is not root:
            raise ValueError(
                f"validation_split is for a folder without images to test on, and {root} has "
                f"{tests[0]}; leave it out"
            )
        train, test = _divide(train, validation_split, train_folder)
    else:
        if len(tests) != 1:
            raise ValueError(
                f"{root} must hold a folder `train` and one of `test` or `val` with the images to "
                f"evaluate on; found {'both' if tests else 'neither'}"
                + ("" if tests else ". validation_split=0.2 tests on a fifth of `train` instead")
            )
        test = _class_files(root / tests[0], ignored)
        if set(train) != set(test):
            raise ValueError(
                f"the classes in {root} differ: only in train: {sorted(set(train) - set(test))}; "
                f"only in {tests[0]}: {sorted(set(test) - set(train))}"
            )
    if len(train) < 2:
        raise ValueError(
            f"{train_folder} holds one class, {next(iter(train))!r}: there is nothing to tell "
            "apart; it needs a folder for each of two classes at least"
        )
    if ignored:
        more = f" and {len(ignored) - 5} more" if len(ignored) > 5 else ""
        logging.warning(
            "ignored %d thing(s) in %s that are no %s files: %s%s",
            len(ignored), root, ", ".join(_SUFFIXES), "; ".join(map(_shown, ignored[:5])), more,
        )  # fmt: skip
    bad = _check_headers([f for part in (train, test) for fs in part.values() for f in fs])
    if bad and unreadable == "stop":
        raise UnreadableImages([f"{_shown(file)} ({reason})" for file, reason in bad.items()])
    classes = tuple(sorted(train))
    return Data(
        f"images of {root.resolve().name}",
        _files(classes, train, bad, unreadable),
        _files(classes, test, bad, unreadable),
        classes,
    )


def _class_files(folder: Path, ignored: list[Path]) -> dict[str, list[Path]]:
    """The image files of each class folder; what else is there, and not hidden, is added to
    `ignored`."""
    classes = {}
    for child in sorted(folder.iterdir()):
        if child.name.startswith("."):
            continue
        if not child.is_dir():
            ignored.append(child)
            continue
        try:
            child.name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the class folder {_shown(child)} has a name that is not UTF-8; rename it"
            ) from None
        # Regular files only: reading a pipe would wait for ever.
        found = {f: f.suffix.lower() in _SUFFIXES and f.is_file() for f in child.iterdir()}
        ignored.extend(f for f, fits in found.items() if not fits and not f.name.startswith("."))
        classes[child.name] = sorted(f for f, fits in found.items() if fits)
    if not classes:
        raise ValueError(f"{folder} holds no class folders; expected {folder.name}/CLASS/*.jpg|png")
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise ValueError(f"no {', '.join(_SUFFIXES)} files in {folder} for the classes {empty}")
    return classes


def _divide(classes: dict[str, list[Path]], share: float, folder: Path):
    """A share of each class for testing, chosen by the files' names: the same on every machine."""

    def place(file):
        return hashlib.sha256(os.fsencode(file.name)).digest()

    train, test = {}, {}
    for name, files in classes.items():
        if len(files) < 2:
            raise ValueError(
                f"{folder / name} holds one image, which cannot be both trained and tested on; "
                "add some"
            )
        count = min(max(round(share * len(files)), 1), len(files) - 1)
        chosen = set(sorted(files, key=place)[:count])
        train[name] = [file for file in files if file not in chosen]
        test[name] = [file for file in files if file in chosen]
    return train, test


def _check_headers(files: list[Path]) -> dict[Path, str]:
    """Which are no images that can be trained on, and why; none is decoded."""
    from PIL import Image

    def problem(file):
        try:
            with Image.open(file) as image:
                if image.width * image.height > _MOST_PIXELS:
                    return _too_large(f"{image.width} x {image.height} pixels")
                if image.format not in _FORMATS:
                    return f"its content is {image.format}, not JPEG or PNG"
                image.verify()
        except Image.DecompressionBombError:
            return _too_large("still more")
        except Exception as error:
            return str(error) or type(error).__name__
        return None

    with ThreadPoolExecutor() as pool:
        progress = tqdm(
            pool.map(problem, files), "checking images", len(files), leave=False, disable=None
        )
        return {file: reason for file, reason in zip(files, progress) if reason}


def _too_large(size: str) -> str:
    return f"{size}, where {_MOST_PIXELS / 1e6:.0f} million are the limit"


def _files(classes: tuple[str, ...], by_class, bad, unreadable: str) -> Split:
    files = [file for name in classes for file in by_class[name]]
    labels = [i for i, name in enumerate(classes) for _ in by_class[name]]
    # What is known to be bad is not even opened.
    paths = [b"" if file in bad else os.fsencode(file.absolute()) for file in files]
    tensors = constants(np.array(paths, object), np.array(labels, np.int32))

    def read(index):
        path, label = (tf.gather(tensor, index) for tensor in tensors())
        return tf.io.read_file(path), label

    def describe(index):
        reason = f" ({bad[files[index]]})" if files[index] in bad else ""
        return _shown(files[index]) + reason

    return Split(len(files), read, None, describe, unreadable)


def _shown(path: Path) -> str:
    """A path as it can be printed, whatever bytes it has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
