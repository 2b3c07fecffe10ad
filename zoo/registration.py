"""Adds networks to the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from irnet_tf.model_config import ModelConfig
from irnet_tf.preprocessing import CIFAR10, DIGITS, IMAGENET
from irnet_tf.training import Recipe
import tensorflow as tf
from zoo.loading import load
from zoo.registry import ENTRIES, Entry

_PREPROCESSING = {"digits": DIGITS, "cifar10": CIFAR10, "imagenet2012": IMAGENET}


def register(
    name: str,
    builder: str,
    arguments: Mapping,
    recipe: Recipe,
    *,
    fast: Recipe | None = None,
    output: str = "logits",
    **fields,
) -> Callable[..., tf.keras.Model]:
    """Add a network to the zoo, with the preprocessing of its recipe's data.

    Args:
        name: `"family/network"`.
        builder: Name of a function of `irnet_tf.models`, or of a builder registered with
            `irnet_tf.model_config.register_builder`.
        arguments: Arguments of the builder.
        recipe: The paper's recipe.
        fast: A recipe with fewer epochs.
        output: `"logits"` or `"probabilities"`.
        **fields: `bits`, `paper` and `pretrained` of `zoo.registry.Entry`.

    Returns:
        The function that loads the network.

    Raises:
        ValueError: If the name is taken.
    """
    if name in ENTRIES:
        raise ValueError(f"the zoo already has a network {name!r}: choose another name")
    recipes = {"paper": recipe, "finetune": (fast or recipe).finetune()}
    if fast is not None:
        recipes["fast"] = fast
    preprocessing = _PREPROCESSING[recipe.data]
    config = ModelConfig(
        builder, dict(arguments), network=name, preprocessing=preprocessing, output=output
    )
    bits = "/".join(str(arguments.get(f"{kind}_bits", 1)) for kind in ("weight", "activation"))
    ENTRIES[name] = Entry(config, recipes, **{"bits": bits, **fields})

    def load_network(weights="pretrained", **arguments):
        return load(name, weights, **arguments)

    load_network.__name__ = load_network.__qualname__ = name.split("/")[1]
    load_network.__doc__ = f"Equal to `zoo.load({name!r}, weights, ...)`."
    return load_network


def register_full_precision(name: str, recipe: Recipe | None = None, **changes) -> Callable:
    """Add the full-precision counterpart of a network, under the same name with the suffix `_fp`.

    Args:
        name: Name of the binary network.
        recipe, **changes: Arguments of `register` other than the binary network's.
    """
    entry = ENTRIES[name]
    changes = {"fast": entry.recipes.get("fast"), **changes}
    arguments = {**entry.config.arguments, "weight_bits": 32, "activation_bits": 32}
    name = f"{name.rsplit('_', 1)[0]}_fp"
    return register(name, entry.config.builder, arguments, recipe or entry.recipe, **changes)
