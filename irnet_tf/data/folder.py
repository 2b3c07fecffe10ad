"""A folder of a user's own images: `train/CLASS/*` and `test/CLASS/*` or `val/CLASS/*`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import hashlib
import io
import os
from pathlib import Path
import warnings

from irnet_tf.data.dataset import (
    SUFFIXES,
    Data,
    Split,
    UnreadableImages,
    constants,
    first_few,
    progress,
)
import numpy as np
import tensorflow as tf

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_MAX_PIXELS = 89_478_485  # Pillow's limit; more than 1 GB as float32
_TOO_LARGE = "too many pixels, the limit is 89 million"
_ORIENTATION = 0x112  # EXIF tag


def load(root: Path, validation_split: float | None) -> Data:
    """Opens a folder of images. See `irnet_tf.data.load`."""
    train, test, bad, needs_pillow = scan(root, validation_split)
    if bad:
        raise UnreadableImages(bad)
    splits = (_split(part, needs_pillow) for part in (train, test))
    return Data(f"images of {root.resolve().name}", *splits, tuple(sorted(train)))


def scan(root: Path, validation_split: float | None, decode: bool = False):
    """Lists the image files of a folder and checks their headers or, with `decode`, all pixels.

    Returns:
        Training files by class, test files by class, a description of each unreadable file, and
        the set of files to read with Pillow.
    """
    train_folder = root / "train" if (root / "train").is_dir() else root
    tests = [name for name in ("test", "val") if (root / name).is_dir()]
    ignored: list[Path] = []
    train = _class_files(train_folder, ignored)
    if validation_split is not None:
        if tests and train_folder is not root:
            raise ValueError(
                f"validation_split is for a folder without test images, and {root} has "
                f"{tests[0]}; leave it out"
            )
        train, test = _divide(train, validation_split, train_folder)
    else:
        if len(tests) != 1:
            raise ValueError(
                f"{root} must hold a folder `train` and one of `test` or `val`, found "
                + ("both" if tests else "neither; validation_split=0.2 tests on a fifth of `train`")
            )
        test = _class_files(root / tests[0], ignored)
        if set(train) != set(test):
            raise ValueError(
                f"train or {tests[0]} in {root} lacks the classes {sorted(set(train) ^ set(test))}"
            )
    if len(train) < 2:
        raise ValueError(f"{train_folder} holds one class, {next(iter(train))!r}; two are needed")
    if ignored:
        warnings.warn(
            f"ignored {len(ignored)} file(s) in {root} that are not images "
            f"({', '.join(SUFFIXES)}): {first_few(list(map(_shown, ignored)), '; ')}",
            stacklevel=4,
        )
    files = [file for part in (train, test) for files in part.values() for file in files]
    return train, test, *_check(files, decode)


def _class_files(folder: Path, ignored: list[Path]) -> dict[str, list[Path]]:
    """The image files of each class folder. Other files are added to `ignored`."""
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
        files = sorted(file for file in child.iterdir() if not file.name.startswith("."))
        # Regular files only: reading a pipe would block.
        images = [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]
        if not images:
            raise ValueError(f"{_shown(child)} holds no image files ({', '.join(SUFFIXES)})")
        ignored.extend(sorted(set(files) - set(images)))
        classes[child.name] = images
    if not classes:
        raise ValueError(f"{folder} holds no class folders; expected {folder.name}/CLASS/*")
    return classes


def _divide(classes: dict[str, list[Path]], share: float, folder: Path):
    """Splits off a share of each class, chosen by hashed file names: equal on every machine."""

    def key(file):
        return hashlib.sha256(os.fsencode(file.name)).digest()

    train, test = {}, {}
    for name, files in classes.items():
        if len(files) < 2:
            raise ValueError(f"{folder / name} holds one image; a split needs at least two")
        count = min(max(round(share * len(files)), 1), len(files) - 1)
        chosen = set(sorted(files, key=key)[:count])
        train[name] = [file for file in files if file not in chosen]
        test[name] = [file for file in files if file in chosen]
    return train, test


def _check(files: list[Path], decode: bool) -> tuple[list[str], set[Path]]:
    """Unreadable files, and files that TensorFlow does not read as intended (see `_as_bmp`)."""
    from PIL import Image

    def check(file):
        """(problem or None, whether Pillow is needed)"""
        try:
            with Image.open(file, formats=_FORMATS) as image:
                if image.width * image.height > _MAX_PIXELS:
                    return _TOO_LARGE, True
                # `getexif` decodes a whole PNG file that has no EXIF data.
                rotated = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) != 1
                plain = image.format in ("JPEG", "MPO", "PNG")  # MPO: several JPEG pictures
                plain = plain and not rotated and not image.has_transparency_data
            if decode:
                content = file.read_bytes() if plain else _as_bmp(file.read_bytes())
                tf.io.decode_image(content, 3, expand_animations=False)
            return None, not plain
        except Image.DecompressionBombError:
            return _TOO_LARGE, True
        except Image.UnidentifiedImageError:
            return "not an image, or of an unsupported format", True
        except Exception:  # decoders raise various types
            return "damaged or truncated", True

    with ThreadPoolExecutor() as pool:
        results = list(progress(pool.map(check, files), "checking images", len(files)))
    bad = [f"{_shown(file)} ({problem})" for file, (problem, _) in zip(files, results) if problem]
    return bad, {file for file, (_, needs_pillow) in zip(files, results) if needs_pillow}


def _as_bmp(content: bytes) -> bytes:
    """An image file as a 24-bit BMP file, upright (EXIF), with transparent pixels on white."""
    from PIL import Image, ImageOps

    content = np.asarray(content, object).item()  # an array if TensorFlow executes eagerly
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits; `convert` would clip them
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            bmp = io.BytesIO()
            image.convert("RGB").save(bmp, "BMP")
            return bmp.getvalue()
    except Exception as error:  # TensorFlow maps ValueError to InvalidArgumentError
        raise ValueError(f"Pillow cannot decode the image: {error}") from error


def _split(classes: dict[str, list[Path]], needs_pillow: set[Path]) -> Split:
    files = [file for name in sorted(classes) for file in classes[name]]
    labels = [i for i, name in enumerate(sorted(classes)) for _ in classes[name]]
    paths = np.array([os.fsencode(file.absolute()) for file in files], object)
    convert = np.array([file in needs_pillow for file in files])
    tensors = constants(paths, np.array(labels, np.int32), convert)

    def read(index):
        path, label, pillow = (tf.gather(tensor, index) for tensor in tensors())
        content = tf.io.read_file(path)
        if convert.any():
            # Stateless: TensorFlow runs stateful functions one by one under op determinism.
            content = tf.cond(
                pillow,
                lambda: tf.ensure_shape(
                    tf.numpy_function(_as_bmp, [content], tf.string, stateful=False), []
                ),
                lambda: content,
            )
        return content, label

    return Split(len(files), read, None, lambda index: _shown(files[index]))


def _shown(path: Path) -> str:
    """A printable form of a path with any bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
