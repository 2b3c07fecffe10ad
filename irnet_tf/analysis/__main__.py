"""`python -m irnet_tf.analysis NETWORK --data_dir=D --out=O`."""

from __future__ import annotations

import argparse
import csv
from importlib import metadata
from pathlib import Path
import sys

from irnet_tf import analysis
from irnet_tf import data as data_module
from irnet_tf._utils import write_atomically
from irnet_tf.model_config import get_model_config
import tensorflow as tf

# Packages that know networks by name offer them here: irnet_tf itself knows none.
_NETWORKS = "irnet_tf.networks"


def load(network: str) -> tuple[tf.keras.Model, bool]:
    """A network, and whether its latent weights are those of a training.

    Args:
        network: a run folder, a weights file, or a name that an installed package knows, such
            as one of the zoo.

    Raises:
        ValueError: if there is no such network.
    """
    path = Path(network)
    if not path.is_dir():
        return _by_name(network), False
    files = [path / f"{name}.safetensors" for name in ("final", "best")]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise ValueError(
            f"{path} is no run folder: it has no final.safetensors or best.safetensors"
        )
    model = _by_name(str(file))
    checkpoint = tf.train.latest_checkpoint(path / "checkpoints")
    if checkpoint:
        tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial()
    return model, bool(checkpoint)


def _by_name(network):
    for entry in metadata.entry_points(group=_NETWORKS):
        return entry.load()(network)
    raise ValueError(
        f"no installed package offers networks to look up {network!r}; `pip install -e .` where "
        "setup.py is installs the zoo"
    )


def images(model, name: str | None, data_dir: str | None, count: int, **how):
    """Batches of the data set's first test images; None if no data is asked for."""
    known = get_model_config(model)
    if name is None and data_dir is None:
        return None, ""
    if known is None or known.preprocessing is None:
        raise ValueError("it is not known what images the network expects; leave --data_dir out")
    if name is None:
        name = (known.recipe or {}).get("data", "folder")
    if count < 1:
        raise ValueError(f"images must be at least 1, got {count}")
    data = data_module.load(name, data_dir, **how)
    count = min(count, data.test.num_examples)
    batches = data_module.evaluation_batches(
        data.test, batch_size=min(count, 50), preprocessing=known.preprocessing
    )
    taken = batches.unbatch().take(count).batch(50)
    return (batch for batch, _ in taken), f"{count} test images of {data.name}"


def report(network: str, out, *, data: str | None, data_dir: str | None, count: int, **how) -> None:
    """Print the table; write it as CSV and Markdown, and the pictures. `how` is for `data.load`."""
    model, latent = load(network)
    batches, words = images(model, data, data_dir, count, **how)
    facts = analysis.analyse(model, batches, latent=latent)
    print(analysis.as_markdown(facts), end="")
    if not latent:
        print(
            "Latent weights are not in a weights file: a run folder with checkpoints has also "
            "what depends on them."
        )
    if batches is None:
        print("Activations need images: --data or --data_dir.")
    if out is None:
        return
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "layers.csv", analysis.as_csv(facts))
    write_atomically(out / "layers.md", analysis.as_markdown(facts))
    title = f"{network}\nactivations on {words}" if words else str(network)
    analysis.draw_layers(facts, out / "layers", title)
    details = Path(network) / "details.csv"
    if details.exists():
        with open(details, newline="") as file:
            analysis.draw_details(list(csv.DictReader(file)), out / "details", str(network))


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m irnet_tf.analysis", description="What is inside a binary network."
    )
    parser.add_argument("network", help="run folder, weights file, or name in the zoo")
    parser.add_argument("--out", help="folder for layers.csv, layers.md and the pictures")
    parser.add_argument("--data", help="data set; that of the network's recipe if not given")
    parser.add_argument("--data_dir", help="where the data is")
    parser.add_argument("--images", type=int, default=1000, help="how many test images")
    parser.add_argument("--validation_split", type=float, help="as of train.py")
    a = parser.parse_args(argv)
    how = {"validation_split": a.validation_split}
    try:
        report(a.network, a.out, data=a.data, data_dir=a.data_dir, count=a.images, **how)
    except (ValueError, OSError) as error:
        sys.exit(f"analysis: {error}")


if __name__ == "__main__":
    main()
