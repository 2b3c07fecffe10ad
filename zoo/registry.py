"""What the zoo knows of a network, and how networks are found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import csv
import dataclasses
import fnmatch
import functools
from importlib.metadata import version
import json
from pathlib import Path

from irnet_tf._utils import nearest
from irnet_tf.model_config import BUILDERS, ModelConfig
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
        output: `"logits"` or `"probabilities"`.
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
    output: str = "logits"

    @property
    def recipe(self) -> Recipe:
        """The paper's."""
        return self.recipes["paper"]

    @property
    def origin(self) -> str | None:
        """Which weights `"pretrained"` are: SHA-256 of the file, or whose; None without any."""
        if self.weights is not None:
            return self.weights.sha256
        return self.pretrained and f"larq-zoo {version('larq-zoo')}"

    @property
    def parameters(self) -> int:
        """How many there are; measured, not built anew."""
        return _sizes()[self.name]["parameters"]

    @property
    def packed_size(self) -> int:
        """Bytes of the tensors in a weights file; measured, not built anew."""
        return _sizes()[self.name]["packed_size"]

    @property
    def operations(self) -> dict[str, int]:
        """`one_bit` and `float` ones an image, see `irnet_tf.analysis.operations`; measured."""
        return {kind: _sizes()[self.name][kind] for kind in ("one_bit", "float")}

    @property
    def description(self) -> ModelConfig:
        """What is known of the network before it is built."""
        builder = next(name for name, function in BUILDERS.items() if function is self.builder)
        return ModelConfig(
            builder,
            dict(self.arguments),
            network=self.name,
            preprocessing=self.preprocessing,
            output=self.output,
        )

    @property
    def results(self) -> dict | None:
        """Our accuracy: `result` and `config` of the run that made the weights, else None."""
        folder = RESULTS / self.name.replace("/", "_")
        if not folder.is_dir():
            return None
        return {
            part: json.loads((folder / f"{part}.json").read_text()) for part in ("result", "config")
        }


def add(entry: Entry) -> None:
    """Add a network to the zoo.

    Raises:
        ValueError: if there is a network of that name already.
    """
    if entry.name in _entries:
        raise ValueError(f"the zoo has a network {entry.name!r} already; choose another name")
    _entries[entry.name] = entry


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
def _sizes() -> dict[str, dict[str, int]]:
    with open(SIZES, newline="") as file:
        rows = list(csv.DictReader(file))
    return {row.pop("network"): {k: int(v) for k, v in row.items()} for row in rows}
