"""scikit-learn's handwritten digits, which need no download."""

from __future__ import annotations

from irnet_tf.data.dataset import OWN_IMAGES, Data, in_memory
import numpy as np


def load(data_dir: str | None = None) -> Data:
    """1,797 handwritten digits, 8x8 enlarged to 32x32; a stratified fifth is the test set.

    Raises:
        ValueError: If `data_dir` is given.
    """
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
