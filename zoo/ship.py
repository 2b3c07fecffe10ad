"""Copies a finished run into the package: weights, results, curves."""

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
from zoo.download import PACKAGE_FOLDER
from zoo.loading import load
from zoo.registry import RESULTS


def ship(run: str | os.PathLike, data_dir: str | os.PathLike | None = None) -> Path:
    """Copy a finished run into the package, and return the path of its weights file.

    Takes the weights of the last epoch, which no test image has selected. Their accuracy is
    measured again in float32.

    Args:
        run: Run folder of a network of the zoo.
        data_dir: Folder of the data, see `irnet_tf.data.load`.

    Raises:
        ValueError: If the run is not finished or was trained on other data.
    """
    run = Path(run)
    if not (run / "result.json").is_file():
        raise ValueError(f"{run} has no result.json: it is not the folder of a finished run")
    identity = json.loads((run / "config.json").read_text())["identity"]
    images = data.load(identity["recipe"]["data"], data_dir)
    if images.name != identity["data"]["name"]:
        raise ValueError(f"{run} was trained on {identity['data']['name']}, not on {images.name}")
    model = load(run / "final.safetensors")
    result = evaluation.evaluate(model, images)
    results = {name: result[name] for name in ("accuracy", "top5", "loss")}
    config = dataclasses.replace(get_model_config(model), results=results)
    name = identity["network"].replace("/", "_")
    path = PACKAGE_FOLDER / f"{name}.safetensors"
    save_weights(set_model_config(model, config), path)
    content = path.read_bytes()
    folder = RESULTS / name
    folder.mkdir(exist_ok=True)
    for file in ("config.json", "metrics.csv", "curves.png"):
        shutil.copyfile(run / file, folder / file)
    summary = json.loads((run / "result.json").read_text()) | {
        "shipped": results,
        "weights": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)},
    }
    write_atomically(folder / "result.json", json.dumps(summary, indent=2) + "\n")
    return path
