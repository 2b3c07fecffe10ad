"""A run of the past, as its folder describes it, so that its weights can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import inspect
import json
from pathlib import Path

from irnet_tf.model_config import BUILDERS
from irnet_tf.training.identity import recipe_of
from irnet_tf.training.recipe import Recipe
from irnet_tf.training.run_dir import RunFolder

# Flags that say how something is computed, or where things are: they may differ.
_FREE = ("mixed_precision",)


@dataclasses.dataclass(frozen=True)
class Past:
    """What a run's config.json says.

    Attributes:
        network: its name in the zoo.
        builder: key of `BUILDERS`; None in old folders.
        arguments: of the builder.
        recipe: how it was trained.
        seed, ede, sync_batch_norm: as of `irnet_tf.training.Options`.
        classes: names, in the order of the labels.
        flags: those of the command line; empty of a run that Python code began.
    """

    network: str
    builder: str | None
    arguments: Mapping
    recipe: Recipe
    seed: int
    ede: bool
    sync_batch_norm: bool
    classes: tuple[str, ...]
    flags: Mapping

    def check(self, given: Mapping) -> None:
        """Raises ValueError if flags that were given contradict the run; names all of them."""
        found = {**dataclasses.asdict(self.recipe), **self._arguments()}
        found |= {"model": self.network, "seed": self.seed, "ede": "on" if self.ede else "off"}
        found["sync_batch_norm"] = self.sync_batch_norm
        found["validation_split"] = self.flags.get("validation_split")
        if "recipe" in self.flags:
            found["recipe"] = self.flags["recipe"]
        wrong = [
            f"{name} is {_plain(found[name])} there, {_plain(value)} was asked for"
            for name, value in given.items()
            if name in found and name not in _FREE and _plain(found[name]) != _plain(value)
        ]
        if wrong:
            raise ValueError(
                f"the run was another one: {'; '.join(wrong)}. Leave that out to evaluate the run "
                "as it was, or choose another output_dir"
            )

    def data_dir(self, given: str | None) -> str | None:
        """Where the data is, as it was given now or then.

        Raises:
            ValueError: if it is no longer where it was then.
        """
        then = self.flags.get("data_dir")
        if given is None and then is not None and not Path(then).is_dir():
            raise ValueError(
                f"the run read data_dir {then!r}, which is not a folder here; give data_dir"
            )
        return then if given is None else given

    def _arguments(self):
        builder = BUILDERS.get(self.builder)
        parameters = inspect.signature(builder).parameters if builder else {}
        return {**{name: p.default for name, p in parameters.items()}, **self.arguments}


def read_past(folder: RunFolder, needs_best: bool = True) -> Past | None:
    """The run in a folder; None if there is none.

    Args:
        folder: the run folder.
        needs_best: whether its best weights must be there.

    Raises:
        ValueError: if what is there is not a run, or not one that can be evaluated.
    """
    identity = folder.identity()
    if identity is None:
        return None
    try:
        past = Past(
            network=identity["network"],
            builder=identity.get("builder"),
            arguments=dict(identity["arguments"]),
            recipe=recipe_of(identity),
            seed=identity["seed"],
            ede=identity["ede"],
            sync_batch_norm=identity.get("sync_batch_norm", False),
            classes=tuple(identity["data"]["classes"]),
            flags=json.loads(folder.config.read_text()).get("flags") or {},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(folder.config)!r} does not describe a run that can be evaluated: {error!r}"
        ) from error
    if needs_best and not folder.best.exists():
        raise ValueError(
            f"{str(folder.folder)!r} has no {folder.best.name} yet: no epoch of the run has ended"
        )
    return past


def _plain(value):
    """As JSON and the command line have it alike."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return None if value == "none" else value
