"""Image files and arrays as RGB pixels, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import os
from pathlib import Path
import stat
import warnings

import numpy as np

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 1 << 27
"""Larger image files are rejected before they are decoded."""


def image_files(folder: str | os.PathLike) -> list[Path]:
    """All image files in a folder and its subfolders, sorted, without hidden files."""
    files = sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise ValueError(f"{os.fspath(folder)!r} has no image files ({', '.join(SUFFIXES)})")
    return files


def read_image(path: str | os.PathLike) -> np.ndarray:
    """The pixels of an image file, uint8 `[height, width, 3]`; the first frame of an animation.

    Raises:
        ValueError: If the file is not an image, is damaged, or has more than `MAX_PIXELS`.
        OSError: If the file cannot be opened.
    """
    from PIL import Image

    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{os.fspath(path)!r} is not a regular file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS}")
            return pixels_of(image)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} cannot be read as an image ({', '.join(FORMATS)}): {error}"
        ) from error


def pixels_of(image) -> np.ndarray:
    """The pixels of a Pillow image, uint8 `[height, width, 3]`.

    The EXIF orientation is applied, and transparent pixels are composited on white. 16-bit images
    keep their upper 8 bits (Pillow would clip).
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def rgb_batches(images) -> Iterator[np.ndarray]:
    """Pixels `[batch, height, width, 3]` of everything that `zoo.predict` accepts."""
    array = hasattr(images, "__array__") and len(getattr(images, "shape", ())) != 1
    if isinstance(images, (str, os.PathLike)):
        images = image_files(images) if os.path.isdir(images) else [images]
    elif array or isinstance(images, bytes) or not isinstance(images, Iterable):
        images = [images]
    empty = True
    for image in images:
        empty = False
        if isinstance(image, (str, os.PathLike)):
            yield read_image(image)[None]
        elif hasattr(image, "convert"):  # Pillow image
            yield pixels_of(image)[None]
        elif isinstance(image, (list, tuple)):
            raise ValueError(
                f"images must be paths or arrays of pixels, got a {type(image).__name__} among "
                "them: convert nested lists to an array, and leave labels out"
            )
        else:
            yield rgb_batch(image)
    if empty:
        raise ValueError("images is empty: give at least one image")


def rgb_batch(images) -> np.ndarray:
    """An array or tensor of pixels as uint8 or float32 `[batch, height, width, 3]`.

    Warns if the values do not look like pixels from 0 to 255.

    Raises:
        ValueError: If the shape or the type is not that of images.
    """
    images = np.asarray(images)
    shape = images.shape
    if images.dtype.kind not in "biuf":
        raise ValueError(f"images must be numbers, got {images.dtype} {images!r:.80}")
    if images.ndim == 2:
        images = images[..., None]
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:3]:
        raise ValueError(
            "images must be [height, width, 3] or [batch, height, width, 3], pixels 0 to 255, got "
            f"shape {shape}; grey images [height, width] or [..., 1]"
        )
    if not np.isfinite(images).all():
        raise ValueError("images hold numbers that are not finite")
    low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 255.0)
    small = images.dtype.kind == "f" and 0 <= low < high <= 1
    if small or images.dtype.kind == "b" or low < 0 or high > 255:
        cure = "multiply them by 255" if low >= 0 and high <= 1 else "pass them unnormalised"
        warnings.warn(
            f"images have values from {low:g} to {high:g}, expected pixels from 0 to 255: {cure}",
            stacklevel=2,
        )
    images = images if images.dtype == np.uint8 else images.astype(np.float32)
    return np.broadcast_to(images, (*images.shape[:3], 3))
