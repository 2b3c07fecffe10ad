"""config.json of a run, and the model config that its weights files hold."""

from __future__ import annotations

import dataclasses
from importlib import metadata
import os
import platform

from irnet_tf._utils import processor
from irnet_tf.data import Data
from irnet_tf.model_config import get_model_config, set_model_config
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training.recipe import Recipe
import tensorflow as tf


def config_of(
    model: tf.keras.Model,
    data: Data,
    recipe: Recipe,
    preprocessing: Preprocessing,
    flags: dict | None,
    options: dict,
) -> dict:
    """The content of config.json: identity, flags, versions and machine.

    Two runs with equal identities end with equal weights.

    Args:
        model, data, recipe, preprocessing, flags: As in `train`.
        options: Seed and other options of `train` that change the result.

    Raises:
        ValueError: If the model's outputs do not match the data's classes.
    """
    if model.output_shape[1:] != (data.num_classes,):
        raise ValueError(
            f"{data.name} has {data.num_classes} classes, the network's output is "
            f"{list(model.output_shape[1:])}: give num_classes={data.num_classes}"
        )
    config = get_model_config(model)
    identity = {
        "network": (config and config.network) or model.name,
        "builder": config and config.builder,
        "arguments": config.arguments if config else {},
        "recipe": dataclasses.asdict(recipe),
        **options,
        "mixed_precision": recipe.mixed_precision,
        "initialized_from": config and (config.file_sha256 or config.initialized_from),
        "preprocessing": preprocessing.to_dict(),
        "data": {
            "name": data.name,
            "train_images": data.train.num_examples,
            "test_images": data.test.num_examples,
            "classes": list(data.class_names),
        },
    }
    return {
        "identity": identity,
        "flags": flags or {},
        "versions": versions(),
        "machine": {
            "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),  # that this process may use
            "devices": [device.name for device in tf.config.list_logical_devices()],
            "replicas": model.distribute_strategy.num_replicas_in_sync,
        },
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    packages = ("irnet_tf", "tensorflow", "tf_keras", "larq", "tensorflow-datasets", "numpy")
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}


def add_run(model: tf.keras.Model, identity: dict, preprocessing: Preprocessing) -> None:
    """Stores the run in the model config, if there is one; `RunLogger` adds its results."""
    if config := get_model_config(model):
        config = dataclasses.replace(
            config,
            classes=tuple(identity["data"]["classes"]),
            preprocessing=preprocessing,
            recipe=identity["recipe"],
            data=identity["data"],
            seed=identity["seed"],
            initialized_from=identity["initialized_from"],
            training={name: identity[name] for name in ("ede", "mixed_precision")},
            file_sha256=None,
            tensors_sha256=None,
        )
        set_model_config(model, config)


def summary(model: tf.keras.Model, config: dict) -> str:
    """A run in a few lines, for the terminal, from its model and the content of config.json."""
    identity, replicas = config["identity"], config["machine"]["replicas"]
    data, recipe, arguments = (identity[name] for name in ("data", "recipe", "arguments"))
    bits = [f"{arguments.get(f'{what}_bits', 1)}-bit {what}s" for what in ("weight", "activation")]
    trainable = sum(int(tf.size(v)) for v in model.trainable_variables)
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    precision = recipe["mixed_precision"] or tf.keras.backend.floatx()
    source = identity["initialized_from"]
    source = f"from {source[:14]}" if source else f"random, seed {identity['seed']}"
    text = f"""\
network  {identity["network"]}: {", ".join(bits)}, {model.count_params():,} parameters, \
{trainable:,} trainable
data     {data["name"]}: {data["train_images"]} training images, {data["test_images"]} test \
images, {len(data["classes"])} classes
images   {Preprocessing.from_dict(identity["preprocessing"])}
recipe   {recipe["epochs"]} epoch{"s" * (recipe["epochs"] > 1)}, batch {recipe["batch_size"]}, \
learning rate {recipe["learning_rate"]:g} ({recipe["lr_schedule"]}), \
weight decay {recipe["weight_decay"]:g}, \
t {recipe["t_min"]:g} to {recipe["t_max"]:g}, augmentation {recipe["augmentation"]}
weights  {source}
devices  {replicas} {kind}{"s" * (replicas > 1)}, {precision}"""
    share = recipe["batch_size"] // replicas
    if replicas > 1 and share < 16 and not identity["sync_batch_norm"]:
        text += f"\nnote     batch norm uses {share} images per replica; see sync_batch_norm"
    return text
