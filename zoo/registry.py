"""The list of networks: entries, and finding them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import csv
import dataclasses
import fnmatch
import functools
import importlib
from importlib.metadata import version
import json
from pathlib import Path
from types import MappingProxyType

from irnet_tf._utils import nearest
from irnet_tf.model_config import BUILDERS, ModelConfig
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training import Recipe
import larq as lq
from zoo import FAMILIES

RESULTS = Path(__file__).parent / "results"
SIZES = Path(__file__).parent / "sizes.csv"  # written by `python -m zoo sizes`
WEIGHTS = Path(__file__).parent / "weights.csv"  # written by `python -m zoo ship`

_entries: dict[str, Entry] = {}


@dataclasses.dataclass(frozen=True)
class Weights:
    """A weights file.

    Attributes:
        file: File name.
        sha256: SHA-256 of the file.
        size: Size in bytes.
    """

    file: str
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    Attributes:
        name: `"family/network"`.
        builder: Function of `irnet_tf.models`.
        arguments: Arguments of the builder.
        preprocessing: Preprocessing of the network's images.
        recipes: Recipes by name: `"paper"`, and others such as `"fast"`.
        paper: Top-1 (and top-5) accuracy in the paper, as fractions; None if it has none.
        bits: Bits of weights and activations of the binary layers, such as `"1/32"`.
        pretrained: Function that downloads the network with larq-zoo's weights.
        output: `"logits"` or `"probabilities"`.
    """

    name: str
    builder: Callable
    arguments: Mapping
    preprocessing: Preprocessing
    recipes: Mapping[str, Recipe]
    paper: tuple[float, ...] | None = None
    bits: str = "1/1"
    pretrained: Callable | None = None
    output: str = "logits"

    @property
    def recipe(self) -> Recipe:
        """The paper's recipe."""
        return self.recipes["paper"]

    @property
    def weights(self) -> Weights | None:
        """The trained weights; None if there are none yet."""
        row = _table(WEIGHTS).get(self.name)
        file = f"{self.name.replace('/', '_')}.safetensors"
        return row and Weights(file, row["sha256"], int(row["size"]))

    @property
    def origin(self) -> str | None:
        """Source of the `"pretrained"` weights: SHA-256 of the file, or larq-zoo's version."""
        if self.weights is not None:
            return self.weights.sha256
        return self.pretrained and f"larq-zoo {version('larq-zoo')}"

    @property
    def sizes(self) -> dict[str, int]:
        """Row of `sizes.csv`.

        `parameters` (all), `trainable` (without the moving statistics of batch norm),
        `packed_size` (bytes of the tensors in a weights file), and `one_bit` and `float`
        operations per image, see `irnet_tf.analysis.operations`.
        """
        return {name: int(value) for name, value in _table(SIZES)[self.name].items()}

    @property
    def config(self) -> ModelConfig:
        """Model config of the network without weights."""
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
        """`result` and `config` of the run that made the weights; None without weights."""
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
    bits: str | None = None,
    **fields,
) -> Callable:
    """Add a network to the zoo.

    Args:
        name: `"family/network"`.
        builder: Function of `irnet_tf.models`, or one that is registered with
            `irnet_tf.model_config.register_builder`.
        arguments: Arguments of the builder.
        recipe: The paper's recipe.
        preprocessing: Preprocessing of the network's images.
        recipes: Other recipes, such as `{"fast": ...}`.
        bits: Bits of weights and activations, such as `"1/32"`; None: those of `arguments`.
        **fields: `paper`, `pretrained` and `output` of `Entry`.

    Returns:
        The function that loads the network.

    Raises:
        ValueError: If the name is taken or the builder is not registered.
    """
    if builder not in BUILDERS.values():
        raise ValueError(
            f"builder {getattr(builder, '__name__', builder)!r} is not registered: call "
            "irnet_tf.model_config.register_builder first"
        )
    if name in _entries:
        raise ValueError(f"the zoo already has a network {name!r}: choose another name")
    recipes = {"paper": recipe, **(recipes or {})}
    recipes["finetune"] = recipes.get("fast", recipe).finetune()
    if bits is None:
        bits = "/".join(str(arguments.get(f"{k}_bits", 1)) for k in ("weight", "activation"))
    _entries[name] = Entry(
        name,
        builder,
        MappingProxyType(dict(arguments)),
        preprocessing,
        MappingProxyType(recipes),
        bits=bits,
        **fields,
    )

    def load_entry(weights="pretrained", *, include_preprocessing=False, **builder_arguments):
        from zoo.loading import load

        return load(name, weights, include_preprocessing=include_preprocessing, **builder_arguments)

    load_entry.__name__ = load_entry.__qualname__ = name.split("/")[1]
    paper = fields.get("paper")
    accuracy = f" Accuracy in the paper: {100 * paper[0]:.1f} % top-1." if paper else ""
    load_entry.__doc__ = f"Equal to `zoo.load({name!r}, weights, ...)`.{accuracy}"
    return load_entry


def register_full_precision(name: str, recipe: Recipe | None = None, **changes) -> Callable:
    """Add the full-precision counterpart of a network, under the same name with the suffix `_fp`.

    Args:
        name: Name of the binary network.
        recipe: The paper's recipe for the counterpart; None: that of the binary network.
        **changes: `recipes` and `paper` of `register`. Without `recipes` the
            counterpart has those of the binary network.

    Returns:
        The function that loads the counterpart.

    Raises:
        ValueError: If the name is taken.
    """
    entry = _entries[name]
    changes.setdefault("recipes", {k: v for k, v in entry.recipes.items() if k == "fast"})
    return register(
        f"{name.rsplit('_', 1)[0]}_fp",
        entry.builder,
        {**entry.arguments, "weight_bits": 32, "activation_bits": 32},
        recipe or entry.recipe,
        preprocessing=entry.preprocessing,
        **changes,
    )


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
    """The entry of a network.

    Raises:
        ValueError: If there is no such network; the message suggests similar names.
    """
    if name not in _all():
        raise ValueError(f"unknown model {name!r}; {suggestions(name)}")
    return _entries[name]


def suggestions(name: str) -> str:
    """Names similar to a misspelt one, of the same family if the family exists."""
    family = f"{name.partition('/')[0]}/"
    names = [known for known in _all() if known.startswith(family)] or list(_all())
    return nearest(name, names)


def _all() -> dict[str, Entry]:
    for family in FAMILIES:
        importlib.import_module(f"zoo.{family}")
    return _entries


@functools.cache
def _table(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row.pop("network"): row for row in csv.DictReader(file)}


def comparable_argument(name: str, value):
    """A builder's argument in a form in which equal quantizers are equal."""
    if isinstance(value, (list, tuple)):
        return [comparable_argument("", item) for item in value]
    if not name.endswith("_quantizer"):
        return value
    try:
        quantizer = lq.quantizers.get(value)
        config = quantizer.get_config()
    except (ValueError, TypeError, AttributeError):
        return value  # the builder reports the error
    return type(quantizer).__name__, {
        key: item for key, item in config.items() if key not in ("name", "t", "metrics")
    }
