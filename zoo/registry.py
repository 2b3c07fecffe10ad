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
from irnet_tf.description import attach, describe
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training import Recipe
from zoo.fetch import fetch

_RESULTS = Path(__file__).parent / "results"
_entries: dict[str, Entry] = {}


@dataclasses.dataclass(frozen=True)
class Weights:
    """A weights file: its name, the SHA-256 of its bytes, and how many there are."""

    file: str
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network.

    Attributes:
        name: `"family/network"`.
        builder: a function of `irnet_tf.models`.
        arguments: what the builder is called with.
        preprocessing: what the network expects of an image.
        recipes: how it can be trained, by name: `"paper"`, and others.
        paper: top-1 (and top-5) accuracy in the paper, as fractions; None where it has none.
        weights: trained weights, None where there are none yet.
    """

    name: str
    builder: Callable
    arguments: Mapping
    preprocessing: Preprocessing
    recipes: Mapping[str, Recipe]
    paper: tuple[float, ...] | None = None
    weights: Weights | None = None

    @property
    def recipe(self) -> Recipe:
        """The paper's."""
        return self.recipes["paper"]

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
    name: str,
    builder: Callable,
    arguments: Mapping,
    recipe: Recipe,
    *,
    preprocessing: Preprocessing,
    recipes: Mapping[str, Recipe] | None = None,
    paper: tuple[float, ...] | None = None,
    weights: Weights | None = None,
) -> Callable:
    """Add a network to the zoo.

    Args:
        name: `"family/network"`.
        builder: a function of `irnet_tf.models`.
        arguments: what the builder is called with.
        recipe: the paper's.
        preprocessing: what the network expects of an image.
        recipes: others than the paper's, such as `{"fast": ...}`.
        paper: top-1 (and top-5) accuracy in the paper, as fractions.
        weights: trained weights.

    Returns:
        The function that loads it.

    Raises:
        ValueError: if there is a network of that name already.
    """
    if name in _entries:
        raise ValueError(f"the zoo has a network {name!r} already; choose another name")
    recipes = MappingProxyType({"paper": recipe, **(recipes or {})})
    arguments = MappingProxyType(dict(arguments))
    _entries[name] = Entry(name, builder, arguments, preprocessing, recipes, paper, weights)

    def load_entry(weights: str | os.PathLike | None = "pretrained", **builder_arguments):
        return load(name, weights, **builder_arguments)

    load_entry.__name__ = load_entry.__qualname__ = name.split("/")[1]
    stated = "no figure" if paper is None else f"{100 * paper[0]:.1f} % top-1"
    load_entry.__doc__ = (
        f"`zoo.load({name!r}, weights, **builder_arguments)`. The paper has {stated}."
    )
    return load_entry


def register_twin(name: str, recipe: Recipe | None = None, **changes) -> Callable:
    """Add the full-precision twin of a network: the same name, but for `_fp` at its end.

    Args:
        name: of the binary network, which is in the zoo.
        recipe: the paper's for the twin; None: that of the binary network.
        **changes: `recipes`, `paper` and `weights` as of `register`. Without `recipes` the twin
            has those of the binary network.

    Returns:
        The function that loads it.

    Raises:
        ValueError: as `register`.
    """
    entry = info(name)
    changes.setdefault("recipes", {k: v for k, v in entry.recipes.items() if k != "paper"})
    return register(
        f"{name.rsplit('_', 1)[0]}_fp",
        entry.builder,
        {**entry.arguments, "weight_bits": 32, "activation_bits": 32},
        recipe or entry.recipe,
        preprocessing=entry.preprocessing,
        **changes,
    )


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
    description = describe(model)
    if description is not None:
        expected = dataclasses.replace(entry.preprocessing, size=model.input_shape[1])
        attach(model, dataclasses.replace(description, network=name, preprocessing=expected))
    if path is not None:
        classes = len(weight_files.read_facts(path)["data"]["classes"])
        skip = builder_arguments.get("num_classes", classes) != classes
        skip = skip or not builder_arguments.get("include_top", True)
        weight_files.load_weights(model, path, skip_classifier=skip, network=name)
        irnet_tf.set_ede(model, entry.recipe.t_max)
    return model
