"""A saved run, so that its weights can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import inspect
from pathlib import Path

from irnet_tf.model_config import BUILDERS
from irnet_tf.training.config import recipe_of
from irnet_tf.training.run_dir import RunDir


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """The config.json of a run.

    Attributes:
        identity: Network, recipe, data and seed.
        flags: Command line flags; empty for a run started from Python.
    """

    identity: Mapping
    flags: Mapping

    def __post_init__(self):
        self.identity["network"], self.identity["data"]["classes"], self.recipe  # noqa: B018

    @property
    def recipe(self):
        return recipe_of(self.identity)

    def check(self, given: Mapping) -> None:
        """Raises ValueError if flags contradict the run; names all of them."""
        builder = BUILDERS.get(self.identity.get("builder"))
        parameters = inspect.signature(builder).parameters if builder else {}
        found = {
            **{name: parameter.default for name, parameter in parameters.items()},
            **self.identity["arguments"],
            **dataclasses.asdict(self.recipe),
            "model": self.identity["network"],
            "seed": self.identity["seed"],
            "ede": "on" if self.identity["ede"] else "off",
            "sync_batch_norm": self.identity["sync_batch_norm"],
            "validation_split": self.flags.get("validation_split"),
            "recipe": self.flags.get("recipe", given.get("recipe")),
        }
        del found["mixed_precision"]  # an evaluation may use another precision
        wrong = [
            f"{name} is {_plain(found[name])} in the run, {_plain(value)} in the flags"
            for name, value in given.items()
            if name in found and _plain(found[name]) != _plain(value)
        ]
        if wrong:
            raise ValueError(
                f"the run differs: {'; '.join(wrong)}. Leave these flags out to evaluate the run, "
                "or choose another output_dir"
            )

    def data_dir(self, given: str | None) -> str | None:
        """The given data folder, else the run's; raises ValueError if that is missing."""
        saved = self.flags.get("data_dir")
        if given is None and saved is not None and not Path(saved).is_dir():
            raise ValueError(f"the run's data_dir {saved!r} is not a folder here; give data_dir")
        return saved if given is None else given


def read_run(path, needs_best: bool = True) -> SavedRun | None:
    """Reads the run in a folder; None if the folder is missing or empty.

    Raises:
        ValueError: If the folder holds something else, or no best weights and `needs_best`.
    """
    run_dir = RunDir(path)
    config = run_dir.read_config()
    if config is None:
        return None
    try:
        run = SavedRun(config["identity"], config.get("flags") or {})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(run_dir.config)!r} lacks {error} of a run") from error
    if needs_best and not run_dir.best.exists():
        raise ValueError(f"{str(path)!r} has no {run_dir.best.name}: no epoch has finished")
    return run


def _plain(value):
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return None if value == "none" else value
