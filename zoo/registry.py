"""What the zoo knows of a network, and how networks are found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import difflib
import json
import os
from pathlib import Path
from types import MappingProxyType

import irnet_tf
from irnet_tf import weights as weight_files
from irnet_tf.training import Recipe
from zoo.fetch import fetch

_RESULTS = Path(__file__).parent / "results"
_entries: dict[str, Entry] = {}


@dataclasses.dataclass(frozen=True)
class Weights:
    """A weights file: its name and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network.

    Attributes:
        name: `"family/network"`.
        builder: a function of `irnet_tf.models`.
        arguments: what the builder is called with.
        recipe: how the network is trained.
        paper: top-1 (and top-5) accuracy in the paper, as fractions; None where it has none.
        weights: trained weights, None where there are none yet.
    """

    name: str
    builder: Callable
    arguments: Mapping
    recipe: Recipe
    paper: tuple[float, ...] | None = None
    weights: Weights | None = None

    @property
    def results(self) -> dict | None:
        """Our accuracy: `result` and `config` of the run that made the weights, else None."""
        folder = _RESULTS / self.name.replace("/", "_")
        if not folder.is_dir():
            return None
        return {
            part: json.loads((folder / f"{part}.json").read_text()) for part in ("result", "config")
        }


def register(
    name: str, builder: Callable, arguments: dict, recipe: Recipe, paper=None, weights=None
) -> Callable:
    """Add a network to the zoo. Returns the function that loads it."""
    entry = Entry(name, builder, MappingProxyType(arguments), recipe, paper, weights)
    _entries[name] = entry

    def load_entry(weights: str | os.PathLike | None = "pretrained", **builder_arguments):
        return load(name, weights, **builder_arguments)

    load_entry.__name__ = load_entry.__qualname__ = name.split("/")[1]
    stated = "no figure" if paper is None else f"{100 * paper[0]:.1f} % top-1"
    load_entry.__doc__ = (
        f"`zoo.load({name!r}, weights, **builder_arguments)`. The paper has {stated}."
    )
    return load_entry


def list_models() -> list[str]:
    """The names of all networks, sorted."""
    return sorted(_entries)


def info(name: str) -> Entry:
    """What the zoo knows of a network.

    Raises:
        ValueError: if there is none of that name; the nearest names are offered.
    """
    if name not in _entries:
        near = difflib.get_close_matches(name, _entries, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_entries)}"
        raise ValueError(f"unknown model {name!r}; {hint}")
    return _entries[name]


def load(name: str, weights: str | os.PathLike | None = "pretrained", **builder_arguments):
    """A network of the zoo, with its trained weights.

    Args:
        name: one of `list_models()`.
        weights: `"pretrained"`; the path of a weights file; or None for new random weights.
        **builder_arguments: for the builder, instead of the entry's. With another
            `num_classes`, or `include_top=False`, all weights but the classifier's are loaded.

    Returns:
        A Keras model that gives logits.

    Raises:
        ValueError: if the name is not known, the network has no trained weights, or the file
            is not what it should be.
    """
    entry = info(name)
    path = None
    if weights == "pretrained":
        if entry.weights is None:
            raise ValueError(
                f"{name!r} has no pretrained weights yet; train it with `python train.py "
                f"--model={name} --data_dir=... --output_dir=...` and pass the path of its "
                "best.safetensors, or pass weights=None for random ones"
            )
        path = fetch(entry.weights.file, entry.weights.sha256)
    elif weights is not None:
        path = Path(weights)
    model = entry.builder(**{**entry.arguments, **builder_arguments})
    if path is not None:
        classes = len(weight_files.read_facts(path)["data"]["classes"])
        skip = builder_arguments.get("num_classes", classes) != classes
        skip = skip or not builder_arguments.get("include_top", True)
        weight_files.load_weights(model, path, skip_classifier=skip, network=name)
        irnet_tf.set_ede(model, entry.recipe.t_max)
    return model
