"""`python -m irnet_tf.analysis NETWORK --out=O`."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from pathlib import Path
import sys

from irnet_tf import analysis
from irnet_tf import data as data_module
from irnet_tf._utils import networks_package, write_atomically
from irnet_tf.evaluation import preprocessing_of
from irnet_tf.model_config import get_model_config
import tensorflow as tf


def load(network: str) -> tuple[tf.keras.Model, bool]:
    """A network, and whether its latent weights are known.

    Args:
        network: Run folder, weights file, or a name that an installed package knows.
    """
    path, load_by_name = Path(network), networks_package().load
    if not path.is_dir():
        return load_by_name(network), False
    files = [path / "final.safetensors", path / "best.safetensors"]
    if not (files := [file for file in files if file.exists()]):
        raise ValueError(f"{path} holds no final.safetensors: no run, or no epoch has ended")
    model = load_by_name(str(files[0]))
    checkpoint = tf.train.latest_checkpoint(path / "checkpoints")
    if checkpoint:
        tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial()
    return model, bool(checkpoint)


def load_images(model, options: argparse.Namespace):
    """Batches of test images, and their description; None without a run folder or data flags."""
    config = Path(options.network) / "config.json"
    flags = json.loads(config.read_text())["flags"] if config.exists() else {}
    if not (config.exists() or options.data or options.data_dir):
        return None, ""
    known = get_model_config(model)
    data = data_module.load(
        options.data or (known and known.recipe or {}).get("data", "folder"),
        options.data_dir or flags.get("data_dir"),
        validation_split=options.validation_split or flags.get("validation_split"),
    )
    split = data.test
    split = dataclasses.replace(split, num_examples=min(options.images, split.num_examples))
    batches = data_module.evaluation_batches(
        split, batch_size=50, preprocessing=preprocessing_of(model)
    )
    images = batches.map(lambda images, _: images)
    return images, f"{split.num_examples} test images of {data.name}"


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m irnet_tf.analysis", description="Weights and activations layer by layer."
    )
    parser.add_argument("network", help="run folder, weights file, or name in the zoo")
    parser.add_argument("--out", help="folder for layers.csv, layers.md and the figures")
    parser.add_argument("--data", help="data set; default: the network's")
    parser.add_argument("--data_dir", help="folder of the data; default: the run's")
    parser.add_argument("--images", type=int, default=1000, help="number of test images (1000)")
    parser.add_argument("--validation_split", type=float, help="flag of train.py")
    options = parser.parse_args(argv)
    try:
        model, latent = load(options.network)
        images, description = load_images(model, options)
        facts = analysis.analyse(model, images, latent=latent)
        table = analysis.as_markdown(facts)
        print(table, end="")
        if not latent:
            print("\nWeights files have no latent weights; run folders with checkpoints do.")
        if images is None:
            print("\nActivations need images: give --data or --data_dir.")
        if options.out is None:
            return
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "layers.csv", analysis.as_csv(facts))
        write_atomically(out / "layers.md", table)
        title = f"{options.network}\nactivations on {description}" if images else options.network
        analysis.draw_layers(facts, out / "layers", title)
        details = Path(options.network) / "details.csv"
        if details.exists():
            with open(details, newline="") as file:
                rows = list(csv.DictReader(file))
            analysis.draw_details(rows, out / "details", options.network)
    except (ValueError, OSError) as error:
        sys.exit(f"analysis: {error}")


if __name__ == "__main__":
    main()
