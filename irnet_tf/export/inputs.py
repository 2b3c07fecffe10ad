"""What a device file takes in and gives out: normalisation within it, and facts beside it."""

from __future__ import annotations

import dataclasses

from irnet_tf.export.plan import require
from irnet_tf.model_config import get_model_config
import numpy as np


def normalisation(model, uint8_input: bool, mean=None, std=None):
    """How a file with `uint8_input` begins.

    Args:
        model: a network.
        uint8_input: whether the file takes pixels 0 to 255.
        mean, std: for a network whose description has no preprocessing: per channel, of images
            between 0 and 1; numbers or sequences of one a channel.

    Returns:
        None without `uint8_input`, else float32 `(scale, offset)`, one a channel, with
        `x * scale + offset == (x / 255 - mean) / std`.

    Raises:
        ValueError: if mean and std are missing, superfluous or out of range.
    """
    if not uint8_input:
        require(mean is None and std is None, "mean and std are for uint8_input=True; set it")
        return None
    description = get_model_config(model)
    own = description and description.preprocessing
    if own:
        require(
            mean is None and std is None,
            f"the network brings its preprocessing ({own}): leave mean and std out",
        )
        return own.scale_and_offset()
    require(
        mean is not None and std is not None,
        "uint8_input=True needs the normalisation that the network was trained with: attach a "
        "description with preprocessing (irnet_tf.model_config.attach), as zoo.load does, or give "
        "mean and std, of images between 0 and 1",
    )
    channels = model.input_shape[-1]
    mean, std = (_numbers(n, value, channels) for n, value in (("mean", mean), ("std", std)))
    require((std > 0).all(), f"std must be above 0, got {std.tolist()}")
    return tuple(
        np.broadcast_to(value, channels).astype(np.float32)
        for value in (1 / (255 * std), -mean / std)
    )


def _numbers(name, value, channels):
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    require(
        numbers.shape in ((), (1,), (channels,)) and np.isfinite(numbers).all(),
        f"{name} must be one finite number or {channels}, one a channel, got {value}",
    )
    return numbers


def describe_file(model, uint8_input: bool, mean=None, std=None) -> dict:
    """What a file says of itself, for `Runner`: JSON types.

    Returns:
        `network`: its name; `output`: `"logits"` or `"probabilities"`; `uint8_input`; and, if
        they are known, `classes` (names in the order of the outputs) and `preprocessing` (`size`,
        `mean`, `std`, `crop`, as of `irnet_tf.preprocessing.Preprocessing`).
    """
    description = get_model_config(model)
    facts = {"network": model.name, "output": "logits", "uint8_input": uint8_input}
    height, width, channels = model.input_shape[1:]
    if description is None:
        if uint8_input and height == width and channels == 3:
            mean, std = (np.broadcast_to(v, 3).astype(float).tolist() for v in (mean, std))
            facts["preprocessing"] = {"size": height, "mean": mean, "std": std, "crop": 1.0}
        return facts
    facts.update(network=description.network or model.name, output=description.output)
    if description.classes is not None and len(description.classes) == model.output_shape[-1]:
        facts["classes"] = list(description.classes)
    if description.preprocessing is not None and height == width:
        own = dataclasses.replace(description.preprocessing, size=height)
        facts["preprocessing"] = own.to_dict()
    return facts
