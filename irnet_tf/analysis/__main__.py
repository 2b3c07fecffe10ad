"""`python -m irnet_tf.analysis NETWORK --out=O`."""

from __future__ import annotations

import argparse
import csv
from importlib import metadata
import json
from pathlib import Path
import sys

from irnet_tf import analysis
from irnet_tf import data as data_module
from irnet_tf._utils import write_atomically
from irnet_tf.evaluation import preprocessing_of
from irnet_tf.model_config import get_model_config
import tensorflow as tf

# The entry point of packages that load networks by name, such as the zoo.
_NETWORKS = "irnet_tf.networks"


def load(network: str) -> tuple[tf.keras.Model, bool]:
    """A network, and whether its latent weights are known.

    Args:
        network: Run folder, weights file, or a name that an installed package knows.

    Raises:
        ValueError: If there is no such network.
    """
    path = Path(network)
    if not path.is_dir():
        return _load_by_name(network), False
    files = [path / f"{name}.safetensors" for name in ("final", "best")]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise ValueError(f"{path} has no final.safetensors or best.safetensors; give a run folder")
    model = _load_by_name(str(file))
    checkpoint = tf.train.latest_checkpoint(path / "checkpoints")
    if checkpoint:
        tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial()
    return model, bool(checkpoint)


def _load_by_name(network):
    for entry in metadata.entry_points(group=_NETWORKS):
        return entry.load()(network)
    raise ValueError(f"no installed package can load {network!r}; `pip install -e .` adds the zoo")


def load_images(model, network: str, options: argparse.Namespace):
    """Batches of test images, and their description.

    A run folder's data is the data of the run. Without a run folder, `options.data` and
    `options.data_dir`, there are none.
    """
    config = Path(network) / "config.json"
    flags = json.loads(config.read_text())["flags"] if config.exists() else {}
    if not (config.exists() or options.data or options.data_dir):
        return None, ""
    known = get_model_config(model)
    data = data_module.load(
        options.data or (known and known.recipe or {}).get("data", "folder"),
        options.data_dir or flags.get("data_dir"),
        validation_split=options.validation_split or flags.get("validation_split"),
    )
    count = min(options.images, data.test.num_examples)
    batches = data_module.evaluation_batches(
        data.test, batch_size=min(count, 50), preprocessing=preprocessing_of(model)
    )
    taken = batches.unbatch().take(count).batch(50)
    return (images for images, _ in taken), f"{count} test images of {data.name}"


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
        images, description = load_images(model, options.network, options)
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
