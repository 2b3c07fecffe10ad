"""Which run it is: what config.json says, and in what two runs differ."""

from __future__ import annotations

import dataclasses
from importlib import metadata
import inspect
import json
import os
import platform

from irnet_tf._utils import processor
from irnet_tf.data import Data
from irnet_tf.model_config import BUILDERS, get_model_config, nameless, set_model_config
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training.recipe import Recipe
from irnet_tf.weights import loaded_from
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Options:
    """How a training is computed; what it computes is the recipe's.

    Attributes:
        seed: of initial weights, order and augmentation, 0 to 2**31 - 1.
        ede: whether `t` follows the recipe's schedule; otherwise it stays at `t_min`, which
            makes the backward pass nearly a straight-through estimator.
        jit_compile: whether XLA compiles the step.
        sync_batch_norm: whether batch norm takes its statistics over all replicas; the authors'
            did it on each by itself.

    Raises:
        ValueError: for a seed outside its range.
    """

    seed: int = 0
    ede: bool = True
    jit_compile: bool = False
    sync_batch_norm: bool = False

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be between 0 and 2**31 - 1, got {self.seed}")


def identity_of(
    model: tf.keras.Model,
    data: Data,
    recipe: Recipe,
    preprocessing: Preprocessing,
    options: Options,
) -> dict:
    """What makes two runs the same, for config.json."""
    description = get_model_config(model)
    return {
        "network": (description and description.network) or model.name,
        "builder": description and description.builder,
        "arguments": description.arguments if description else {},
        "recipe": dataclasses.asdict(recipe),
        "seed": options.seed,
        "ede": options.ede,
        "mixed_precision": recipe.mixed_precision,
        "sync_batch_norm": options.sync_batch_norm,
        "initialized_from": loaded_from(model) or (description and description.initialized_from),
        "preprocessing": preprocessing.to_dict(),
        "data": {
            "name": data.name,
            "train_images": data.train.num_examples,
            "test_images": data.test.num_examples,
            "classes": list(data.class_names),
        },
    }


def recipe_of(identity: dict) -> Recipe:
    """The recipe of a run; what an old run does not say is the default."""
    known = {field.name for field in dataclasses.fields(Recipe)}
    values = {"mixed_precision": identity["mixed_precision"], **identity["recipe"]}
    return Recipe(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    )


def config_of(identity: dict, flags: dict | None, strategy: tf.distribute.Strategy) -> dict:
    """What config.json holds: identity, flags, versions and machine."""
    machine = {
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),  # that this process may use
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "replicas": strategy.num_replicas_in_sync,
    }
    return {
        "identity": identity,
        "flags": flags or {},
        "versions": versions(),
        "machine": machine,
    }


def complete(model, identity, preprocessing, results, training) -> None:
    """Let the model's description, if there is one, say by what training its weights were made."""
    description = get_model_config(model)
    if description is None:
        return
    description = dataclasses.replace(
        description,
        classes=tuple(identity["data"]["classes"]),
        preprocessing=preprocessing,
        recipe=identity["recipe"],
        data=identity["data"],
        seed=identity["seed"],
        initialized_from=identity["initialized_from"],
        results=results,
        training=training,
    )
    set_model_config(model, description)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("irnet_tf", "tensorflow", "tf_keras", "larq", "tensorflow-datasets", "numpy")
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}


def differences(found: dict, wanted: dict) -> list[str]:
    """In what the identities of two runs differ, in words.

    What the found one does not say, because it was made before there was such a thing, is taken
    to be the default; what has no default, to be what is wanted.
    """
    found = {**wanted, **found}
    if isinstance(found.get("recipe"), dict):
        found["recipe"].setdefault("mixed_precision", found["mixed_precision"])
    for identity in (found, wanted):
        if isinstance(identity.get("recipe"), dict):
            identity["recipe"] = {**_defaults(Recipe), **identity["recipe"]}
        if isinstance(identity.get("arguments"), dict):
            identity["arguments"] = {k: nameless(v) for k, v in identity["arguments"].items()}
    builder = BUILDERS.get(wanted.get("builder"))
    if builder and isinstance(found.get("arguments"), dict):
        defaults = {name: p.default for name, p in inspect.signature(builder).parameters.items()}
        defaults = json.loads(json.dumps(defaults, default=lambda missing: None))
        for identity in (found, wanted):
            identity["arguments"] = {**defaults, **identity["arguments"]}
    return _differing(found, wanted)


def _defaults(dataclass) -> dict:
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(dataclass)
        if field.default is not dataclasses.MISSING
    }
    return json.loads(json.dumps(defaults))


def _differing(found: dict, wanted: dict, prefix: str = "") -> list[str]:
    differing = []
    for key in sorted({*found, *wanted}):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            differing += _differing(a, b, f"{prefix}{key}.")
        elif a != b:
            differing.append(f"{prefix}{key}: {a!r} there, {b!r} asked for")
    return differing
