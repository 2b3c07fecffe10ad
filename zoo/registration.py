"""Networks enter the zoo, each with a function that loads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from irnet_tf.model_config import BUILDERS
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training import Recipe
from zoo.loading import load
from zoo.registry import Entry, Weights, add, info

__all__ = ["Weights", "register", "register_twin"]


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
    output: str = "logits",
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
        output: `"logits"` or `"probabilities"`.

    Returns:
        The function that loads it.

    Raises:
        ValueError: if there is a network of that name already, or the builder is not registered.
    """
    if builder not in BUILDERS.values():
        raise ValueError(
            f"{getattr(builder, '__name__', builder)!r} is no known builder: make it known with "
            "irnet_tf.model_config.register_builder first, so that weights files can name it"
        )
    recipes = {"paper": recipe, **(recipes or {})}
    recipes["finetune"] = recipes.get("fast", recipe).finetune()
    recipes = MappingProxyType(recipes)
    arguments = MappingProxyType(dict(arguments))
    if bits is None:
        bits = "/".join(str(arguments.get(f"{k}_bits", 1)) for k in ("weight", "activation"))
    add(
        Entry(
            name,
            builder,
            arguments,
            preprocessing,
            recipes,
            paper=paper,
            weights=weights,
            bits=bits,
            pretrained=pretrained,
            output=output,
        )
    )

    def load_entry(weights="pretrained", *, include_preprocessing=False, **builder_arguments):
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
    changes.setdefault("recipes", {k: v for k, v in entry.recipes.items() if k == "fast"})
    return register(
        f"{name.rsplit('_', 1)[0]}_fp",
        entry.builder,
        {**entry.arguments, "weight_bits": 32, "activation_bits": 32},
        recipe or entry.recipe,
        preprocessing=entry.preprocessing,
        **changes,
    )
