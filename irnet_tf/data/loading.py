"""Data sets by name."""

from __future__ import annotations

import os
from pathlib import Path

from irnet_tf._utils import check_choice, nearest
from irnet_tf.data import cifar10, digits, folder, imagenet
from irnet_tf.data.dataset import OWN_IMAGES, Data

_SOURCES = {"digits": digits, "cifar10": cifar10, "imagenet2012": imagenet}


def load(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    unreadable: str = "stop",
    validation_split: float | None = None,
) -> Data:
    """Open a data set.

    Args:
        name: `"digits"`, `"cifar10"`, `"imagenet2012"`, or `"folder"`: images of one's own. If
            `data_dir` holds a folder `train` of class folders, those images are taken whatever
            the name.
        data_dir: where the data is. For `"cifar10"` and `"imagenet2012"` the folder that
            TensorFlow Datasets prepared; without it TFDS's own default is used, and cifar10
            is downloaded if need be. For images of one's own: `train/CLASS/*.jpg|png` and
            `test/...` or `val/...`.
        unreadable: what happens at a broken image of a folder or of ImageNet. `"stop"`: an
            error names it. `"skip"`: a warning does; in training the next readable example
            stands in for it, in evaluation it is left out of the batch.
        validation_split: for images of one's own without a part to test on: the share of each
            class, above 0 and below 1, that is tested on instead of trained on. `data_dir` may
            then hold the class folders themselves.

    Returns:
        The data set. Small ones are in memory; ImageNet and a folder are read when needed.

    Raises:
        ValueError: if an argument is not one of these; the folder is missing, empty, or not
            what `name` needs; it has no test images, fewer than two classes, or other classes
            in test than in train; or if a prepared data set is missing or damaged.
        UnreadableImages: if a file of the folder is no image.
    """
    check_choice("unreadable", unreadable, ("stop", "skip"))
    if name not in _SOURCES and name != "folder":
        raise ValueError(f"unknown data set {name!r}; {nearest(name, _SOURCES)} And {OWN_IMAGES}")
    if validation_split is not None and not 0 < validation_split < 1:
        raise ValueError(
            f"validation_split must be above 0 and below 1, the share to test on, got "
            f"{validation_split!r}"
        )
    if data_dir is not None:
        if str(data_dir) == "":
            raise ValueError(
                "data_dir is empty; name the folder that holds the data, or leave it out"
            )
        root = Path(data_dir)
        if not root.is_dir():
            raise ValueError(f"data_dir {str(data_dir)!r} is not a folder; check the path")
        if not any(root.iterdir()):
            raise ValueError(f"data_dir {str(data_dir)!r} is empty; it should hold the images")
        if (root / "train").is_dir() or validation_split is not None or name == "folder":
            return folder.load(root, unreadable, validation_split)
    if name == "folder":
        raise ValueError(f"data 'folder' needs data_dir; {OWN_IMAGES}")
    if validation_split is not None:
        raise ValueError(
            f"validation_split is for a folder of images of your own; {name} has its own test "
            "images: leave it out, or give data_dir"
        )
    return _SOURCES[name].load(None if data_dir is None else str(data_dir), unreadable)
