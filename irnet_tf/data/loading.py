"""Data sets by name."""

from __future__ import annotations

import os
from pathlib import Path

from irnet_tf._utils import nearest
from irnet_tf.data import folder, prepared
from irnet_tf.data.dataset import OWN_IMAGES, Data, in_memory
import numpy as np


def _digits(data_dir: str | None = None) -> Data:
    """scikit-learn's 1,797 digits, 8x8 enlarged to 32x32; a stratified fifth is the test set."""
    if data_dir is not None:
        raise ValueError(
            f"{data_dir!r} holds no folder train, and digits (part of scikit-learn) take no "
            f"data_dir; {OWN_IMAGES}"
        )
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
    names = tuple(map(str, digits.target_names))
    return Data("digits (scikit-learn)", in_memory(x, y), in_memory(xt, yt), names)


_SOURCES = {"digits": _digits, "cifar10": prepared.cifar10, "imagenet2012": prepared.imagenet2012}


def load(
    name: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    *,
    validation_split: float | None = None,
) -> Data:
    """Opens a data set.

    Args:
        name: `"digits"`, `"cifar10"`, `"imagenet2012"`, or the path of a folder of your own images.
            `"folder"` means the images in `data_dir`. If `data_dir` holds a folder `train`, its
            images are used with any name.
        data_dir: Folder of the data. For `"cifar10"` and `"imagenet2012"` a folder prepared by
            TensorFlow Datasets, by default TFDS's own; cifar10 is downloaded if it is missing. Your
            own images lie in `train/CLASS/*` and `test/CLASS/*` (or `val/CLASS/*`).
        validation_split: Share of each class, between 0 and 1, that becomes the test set of your
            own images if they have no `test` or `val` folder. The class folders may then also lie
            in the folder itself.

    Returns:
        The data set. Small ones are in memory. ImageNet and folders are read when needed.

    Raises:
        ValueError: If an argument is invalid, the folder does not have the layout above, or a
            prepared data set is missing or damaged.
        UnreadableImages: If files of the folder are not images.
    """
    if name not in (*_SOURCES, "folder"):
        if data_dir is not None or not Path(name).is_dir():
            raise ValueError(f"unknown data set {name!r}; {nearest(str(name), _SOURCES)}; or the "
                             f"path of a folder: {OWN_IMAGES}")  # fmt: skip
        name, data_dir = "folder", name
    if validation_split is not None and not 0 < validation_split < 1:
        raise ValueError(f"validation_split must be between 0 and 1, got {validation_split!r}")
    if data_dir is not None:
        root = Path(data_dir)
        if not str(data_dir) or not root.is_dir():
            raise ValueError(f"data_dir {str(data_dir)!r} is not a folder; check the path")
        if (root / "train").is_dir() or validation_split is not None or name == "folder":
            return folder.load(root, validation_split)
    if name == "folder":
        raise ValueError(f"data set 'folder' needs data_dir; {OWN_IMAGES}")
    if validation_split is not None:
        raise ValueError(
            f"validation_split is for a folder of your own images; {name} has its own test "
            "images: leave it out, or give data_dir"
        )
    return _SOURCES[name](None if data_dir is None else str(data_dir))
