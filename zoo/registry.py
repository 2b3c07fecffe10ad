"""The list of networks: entries, and finding them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import csv
import dataclasses
import fnmatch
import functools
import importlib
import json
from pathlib import Path
from typing import NamedTuple

from irnet_tf._utils import nearest
from irnet_tf.model_config import BUILDERS, ModelConfig
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training import Recipe
from zoo import FAMILIES

RESULTS = Path(__file__).parent / "results"
SIZES = Path(__file__).parent / "sizes.csv"  # written by `python -m zoo sizes`

ENTRIES: dict[str, Entry] = {}
"""The networks of the families that have been imported. `zoo.registration.register` adds one."""


class Weights(NamedTuple):
    """Name, SHA-256 and size in bytes of a weights file."""

    file: str
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    Attributes:
        config: Model config of the network without weights.
        recipes: Recipes by name: `"paper"`, `"finetune"`, and others such as `"fast"`.
        bits: Bits of weights and activations of the binary layers, such as `"1/32"`.
        paper: Top-1 (and top-5) accuracy in the paper, as fractions; None if it has none.
        pretrained: Function that downloads the network with larq-zoo's weights.
    """

    config: ModelConfig
    recipes: Mapping[str, Recipe]
    bits: str
    paper: tuple[float, ...] | None = None
    pretrained: Callable | None = None

    @property
    def name(self) -> str:
        """`"family/network"`."""
        return self.config.network

    @property
    def builder(self) -> Callable:
        """Function that builds the network, see `irnet_tf.model_config.register_builder`."""
        return BUILDERS[self.config.builder]

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the network's images."""
        return self.config.preprocessing

    @property
    def recipe(self) -> Recipe:
        """The paper's recipe."""
        return self.recipes["paper"]

    @property
    def results(self) -> dict | None:
        """`result` and `config` of the run that made the weights; None without weights."""
        folder = RESULTS / self.name.replace("/", "_")
        if not folder.is_dir():
            return None
        return {
            part: json.loads((folder / f"{part}.json").read_text()) for part in ("result", "config")
        }

    @property
    def weights(self) -> Weights | None:
        """The trained weights; None if there are none yet."""
        results = self.results
        file = f"{self.name.replace('/', '_')}.safetensors"
        return results and Weights(file, **results["result"]["weights"])

    @property
    def sizes(self) -> dict[str, int]:
        """Row of `sizes.csv`.

        `parameters` (all), `trainable` (without the moving statistics of batch norm),
        `packed_size` (bytes of the tensors in a weights file), and `one_bit` and `float`
        operations per image, see `irnet_tf.analysis.operations`.
        """
        return _sizes()[self.name]


def list_models(pattern: str | None = None, pretrained: bool | None = None) -> list[str]:
    """Names of the networks, sorted.

    Args:
        pattern: Family such as `"cifar10"`, or a pattern such as `"*_1w1a"`; None: all.
        pretrained: True: networks with trained weights; False: those without; None: both.
    """
    if pattern in FAMILIES:
        pattern = f"{pattern}/*"
    return sorted(
        name
        for name, entry in _all().items()
        if (pattern is None or fnmatch.fnmatchcase(name, pattern))
        and (pretrained is None or pretrained == bool(entry.weights or entry.pretrained))
    )


def info(name: str) -> Entry:
    """The entry of a network. An unknown name is a ValueError that suggests similar ones."""
    if name not in _all():
        raise ValueError(f"unknown model {name!r}; {suggestions(name)}")
    return ENTRIES[name]


def suggestions(name: str) -> str:
    """Names similar to a misspelt one, of the same family if the family exists."""
    family = f"{name.partition('/')[0]}/"
    return nearest(name, [known for known in _all() if known.startswith(family)] or _all())


def _all() -> dict[str, Entry]:
    for family in FAMILIES:
        importlib.import_module(f"zoo.{family}")
    return ENTRIES


@functools.cache
def _sizes():
    with open(SIZES, newline="") as file:
        return {
            row.pop("network"): {name: int(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        }
