"""From a finished run to what the zoo ships: weights, and the run that made them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
import shutil

from irnet_tf import data, evaluation
from irnet_tf._utils import write_atomically
from irnet_tf.model_config import get_model_config, set_model_config
from irnet_tf.weights import save_weights
from zoo.fetch import PACKAGE_FOLDER
from zoo.loading import load
from zoo.registry import RESULTS, Weights

KEPT = ("config.json", "metrics.csv", "curves.png")


def ship(run: str | os.PathLike, data_dir: str | os.PathLike | None = None) -> Weights:
    """Copy a finished run into the package.

    The last epoch's weights are shipped, which no test image has chosen. Their accuracy is measured
    again with the file loaded as anyone loads it: in float32, whatever the training computed in.

    Args:
        run: the run folder of a network of the zoo.
        data_dir: as of `irnet_tf.data.load`.

    Returns:
        What the network's entry is to say of its weights.

    Raises:
        ValueError: if the run is not finished, or was not trained on this data.
        OSError: if something cannot be read or written.
    """
    run = Path(run)
    if not (run / "result.json").is_file():
        raise ValueError(f"{run} has no result.json: it is no run folder, or not finished")
    identity = json.loads((run / "config.json").read_text())["identity"]
    images = data.load(identity["recipe"]["data"], data_dir)
    if images.name != identity["data"]["name"]:
        raise ValueError(f"{run} was trained on {identity['data']['name']}, not on {images.name}")
    model = load(run / "final.safetensors")
    result = evaluation.evaluate(model, images)
    results = {name: result[name] for name in ("accuracy", "top5", "loss")}
    description = dataclasses.replace(
        get_model_config(model),
        network=identity["network"],
        recipe=identity["recipe"],
        data=identity["data"],
        seed=identity["seed"],
        results=results,
    )
    name = identity["network"].replace("/", "_")
    path = PACKAGE_FOLDER / f"{name}.safetensors"
    save_weights(set_model_config(model, description), path)
    folder = RESULTS / name
    folder.mkdir(exist_ok=True)
    for kept in KEPT:
        shutil.copyfile(run / kept, folder / kept)
    summary = {**json.loads((run / "result.json").read_text()), "shipped": results}
    write_atomically(folder / "result.json", json.dumps(summary, indent=2) + "\n")
    content = path.read_bytes()
    return Weights(path.name, hashlib.sha256(content).hexdigest(), len(content))
