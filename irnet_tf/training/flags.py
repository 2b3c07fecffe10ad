"""Flags of `train.py` that are made from a recipe's fields and from builders' arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import inspect
import re

from absl import flags
from irnet_tf._utils import nearest
from irnet_tf.model_config import BUILDERS, check_arguments
from irnet_tf.training.recipe import Recipe

# Not for a command line, or what data and loss decide.
_NOT_FLAGS = ("input_tensor", "include_top", "classifier_activation", "name")


def define_recipe_flags(values: flags.FlagValues, taken: Iterable[str] = ()) -> list[str]:
    """One flag a field of `Recipe`, of its own name; None unless it is given.

    Args:
        values: where they are defined.
        taken: fields that have a flag already.

    Returns:
        The names.
    """
    helps = _attributes(Recipe.__doc__)
    names = [field.name for field in dataclasses.fields(Recipe) if field.name not in taken]
    kinds = {field.name: str(field.type) for field in dataclasses.fields(Recipe)}
    for name in names:
        text = helps.get(name, "").replace("None:", "none:")  # as `changed` reads it
        _define(values, name, kinds[name], f"recipe: {text}")
    return names


def define_builder_flags(values: flags.FlagValues, taken: Iterable[str]) -> list[str]:
    """One flag an argument that any registered builder has; None unless it is given.

    Args:
        values: where they are defined.
        taken: names that are flags already.

    Returns:
        The names.
    """
    kinds, texts = {}, {}
    for builder in BUILDERS.values():
        helps = _attributes(builder.__doc__ or "")
        for name, parameter in inspect.signature(builder).parameters.items():
            named = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if named and name not in (*_NOT_FLAGS, *taken):
                kinds.setdefault(name, _kind(name, parameter))
                texts.setdefault(name, {}).setdefault(helps.get(name, ""), builder.__name__)
    for name, kind in kinds.items():
        said = {text: builder for text, builder in texts[name].items() if text}
        text = " ".join(f"{b}: {t}" if len(said) > 1 else t for t, b in said.items())
        _define(values, name, kind, f"network: {text}")
    return list(kinds)


def replace(recipe: Recipe, changes: Mapping) -> Recipe:
    """The recipe with flags that were given; `none` takes an optional value away.

    Raises:
        ValueError: for what a recipe cannot have, or a flag that would do nothing.
    """
    optional = {f.name for f in dataclasses.fields(Recipe) if "None" in str(f.type)}
    none = {name: None for name in optional if changes.get(name) == "none"}
    recipe = recipe.replace(**{k: v for k, v in changes.items() if k not in none})
    recipe = dataclasses.replace(recipe, **none)
    if changes.get("decay_at") and recipe.lr_schedule != "step":
        raise ValueError(
            f"decay_at is for the lr_schedule 'step', and it is {recipe.lr_schedule!r}: give "
            "lr_schedule=step, or leave decay_at out"
        )
    if changes.get("lr_schedule") == "step" and not recipe.decay_at:
        raise ValueError(
            "lr_schedule 'step' needs decay_at, such as 0.5,0.75: where the rate falls"
        )
    if changes.get("warmup_start_lr") and not recipe.warmup:
        raise ValueError("warmup_start_lr needs warmup, the share of training that it takes")
    return recipe


def given(values: flags.FlagValues, names: Iterable[str]) -> dict:
    """Those of the flags that were given, as Python values."""
    return {name: values[name].value for name in names if values[name].value is not None}


def check(arguments: list[str], given: Mapping) -> None:
    """Raises ValueError if there are arguments that are no flags, or flags with nothing in them."""
    if len(arguments) > 1:
        raise ValueError(f"did not understand {' '.join(arguments[1:])}; flags begin with --")
    for name, value in given.items():
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{name} is empty; give a value, or leave it out")


def check_network(network: str, builder: Callable, arguments: Mapping) -> None:
    """Raises ValueError if the network has no such argument (and says which it has), or if a
    quantizer is not one."""
    hidden = "|".join(_NOT_FLAGS)
    try:
        check_arguments(network, builder, arguments)
    except ValueError as error:
        raise ValueError(re.sub(rf"\b({hidden}), |, ({hidden})\b", "", str(error))) from error
    for name in arguments:
        if name.endswith("_quantizer"):
            check_quantizer(name, arguments[name])


def check_quantizer(name: str, value: str) -> None:
    """Raises ValueError if a quantizer is of the other kind, or none."""
    if name == "input_quantizer" and value == "libra_pb":
        raise ValueError(
            "input_quantizer 'libra_pb' is for kernels: it balances weights, and activations have "
            "none; did you mean ede_sign?"
        )
    if value in ("NoOp", "no_op"):
        bits = "weight_bits" if name == "kernel_quantizer" else "activation_bits"
        raise ValueError(f"{name} {value!r} does not quantize; use {bits}=32 for full precision")


def choose_recipe(name: str, recipes: Mapping[str, Recipe]) -> Recipe:
    """Raises ValueError if there is no recipe of that name; says which there are."""
    if name not in recipes:
        raise ValueError(f"unknown recipe {name!r}; {nearest(name, recipes)}")
    return recipes[name]


def _kind(name: str, parameter: inspect.Parameter) -> str:
    if name == "input_shape":
        return "tuple[int, ...]"
    if parameter.annotation is not parameter.empty:
        return str(parameter.annotation)
    return "str"


def _define(values, name, kind, text):
    kind = re.sub(r"\s*\|\s*None", "", kind)
    if kind.startswith(("tuple", "list")):
        number = _Numbers(int if "int" in kind else float)
        flags.DEFINE(number, name, None, text, values, flags.ArgumentSerializer())
        return
    define = {"int": flags.DEFINE_integer, "float": flags.DEFINE_float, "bool": flags.DEFINE_bool}
    define.get(kind, flags.DEFINE_string)(name, None, text, flag_values=values)


class _Numbers(flags.ArgumentParser):
    """Numbers between commas."""

    def __init__(self, kind):
        self._kind = kind
        self.syntactic_help = f"{kind.__name__} numbers between commas"

    def parse(self, argument):
        if not isinstance(argument, str):
            return tuple(argument)
        try:
            return tuple(self._kind(part) for part in argument.split(",") if part.strip())
        except ValueError:
            raise ValueError(f"{argument!r} is not {self.syntactic_help}") from None

    def flag_type(self):
        return self.syntactic_help


def _attributes(docstring: str) -> dict[str, str]:
    """What a docstring says of each argument or attribute, on one line."""
    found = {}
    for match in re.finditer(
        r"^ +(\w+(?:, \w+)*): (.*(?:\n {8,}(?! *\w+(?:, \w+)*: ).*)*)", docstring, re.M
    ):
        text = re.sub(r"\s+", " ", match.group(2)).replace("`", "").strip()
        found |= dict.fromkeys(match.group(1).split(", "), text)
    return found
