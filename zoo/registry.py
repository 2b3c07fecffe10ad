"""What the zoo knows of a network, and how networks are found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import csv
import dataclasses
import fnmatch
import functools
import json
from pathlib import Path
from types import MappingProxyType

from irnet_tf._checks import nearest
from irnet_tf.description import BUILDERS, Description
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training import Recipe

RESULTS = Path(__file__).parent / "results"
SIZES = Path(__file__).parent / "sizes.csv"  # `python -m zoo sizes` writes it
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
        bits: of weights and activations of the binary layers, such as `"1/32"`.
        pretrained: gives the network with weights that others trained, which it downloads.
    """

    name: str
    builder: Callable
    arguments: Mapping
    preprocessing: Preprocessing
    recipes: Mapping[str, Recipe]
    paper: tuple[float, ...] | None = None
    weights: Weights | None = None
    bits: str = "1/1"
    pretrained: Callable | None = None

    @property
    def recipe(self) -> Recipe:
        """The paper's."""
        return self.recipes["paper"]

    @property
    def parameters(self) -> int:
        """How many there are; measured, not built anew."""
        return _sizes()[self.name][0]

    @property
    def packed_size(self) -> int:
        """Bytes of the tensors in a weights file; measured, not built anew."""
        return _sizes()[self.name][1]

    @property
    def description(self) -> Description:
        """What is known of the network before it is built."""
        builder = next(name for name, function in BUILDERS.items() if function is self.builder)
        arguments = dict(self.arguments)
        return Description(builder, arguments, network=self.name, preprocessing=self.preprocessing)

    @property
    def results(self) -> dict | None:
        """Our accuracy: `result` and `config` of the run that made the weights, else None."""
        folder = RESULTS / self.name.replace("/", "_")
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
    bits: str | None = None,
    pretrained: Callable | None = None,
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
        bits: of weights and activations, such as `"1/32"`; None: as the arguments say.
        pretrained: gives the network with weights that others trained.

    Returns:
        The function that loads it.

    Raises:
        ValueError: if there is a network of that name already.
    """
    if name in _entries:
        raise ValueError(f"the zoo has a network {name!r} already; choose another name")
    recipes = MappingProxyType({"paper": recipe, **(recipes or {})})
    arguments = MappingProxyType(dict(arguments))
    if bits is None:
        bits = "/".join(str(arguments.get(f"{k}_bits", 1)) for k in ("weight", "activation"))
    _entries[name] = Entry(
        name, builder, arguments, preprocessing, recipes, paper, weights, bits, pretrained
    )

    def load_entry(weights="pretrained", *, include_preprocessing=False, **builder_arguments):
        from zoo.loading import load

        return load(name, weights, include_preprocessing=include_preprocessing, **builder_arguments)

    load_entry.__name__ = load_entry.__qualname__ = name.split("/")[1]
    stated = "no figure" if paper is None else f"{100 * paper[0]:.1f} % top-1"
    load_entry.__doc__ = f"`zoo.load({name!r}, weights, ...)`, which see. The paper has {stated}."
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


def list_models(pattern: str | None = None, pretrained: bool | None = None) -> list[str]:
    """The names of networks, sorted.

    Args:
        pattern: such as `"cifar10/*"` or `"*_1w1a"`; None: all.
        pretrained: True: those with trained weights; False: those without; None: both.
    """
    return sorted(
        name
        for name, entry in _entries.items()
        if (pattern is None or fnmatch.fnmatchcase(name, pattern))
        and (pretrained is None or pretrained == bool(entry.weights or entry.pretrained))
    )


def info(name: str) -> Entry:
    """What the zoo knows of a network.

    Raises:
        ValueError: if there is none of that name; the nearest names are offered.
    """
    if name not in _entries:
        raise ValueError(f"unknown model {name!r}; {nearest(name, _entries)}")
    return _entries[name]


@functools.cache
def _sizes() -> dict[str, tuple[int, int]]:
    with open(SIZES, newline="") as file:
        return {
            row["network"]: (int(row["parameters"]), int(row["packed_size"]))
            for row in csv.DictReader(file)
        }
