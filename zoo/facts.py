"""What is known of a network of the zoo, in words; for the command line and the site's cards."""

from __future__ import annotations

import dataclasses
import inspect

from irnet_tf.training.config import recipe_of
from zoo.registry import Entry

_NOT_GIVEN = object()


def facts(entry: Entry) -> dict[str, str]:
    """From a title to what is known; only what is."""
    operations = entry.operations
    lines = {
        "W/A": f"{entry.bits} bit",
        "images": str(entry.preprocessing),
        "parameters": f"{entry.parameters:,}; {size_text(entry.packed_size)} in a weights file",
        "operations": f"{_millions(operations['one_bit'])} 1-bit, {_millions(operations['float'])} "
        "float an image (a multiplication and an addition count as one)",
        "paper" if entry.pretrained is None else "larq-zoo's weights": entry.paper
        and _accuracies(*entry.paper),
        **_of_the_run(entry),
        "file": entry.weights
        and f"{entry.weights.file}, {entry.weights.size:,} bytes, SHA-256 {entry.weights.sha256}",
        **{f"recipe {name}": _recipe(recipe) for name, recipe in entry.recipes.items()},
    }
    if not entry.results and entry.pretrained is None:
        lines["train"] = command(entry)
    return {title: text for title, text in lines.items() if text}


def command(entry: Entry) -> str:
    """The command line that repeats the run of the shipped weights, or would begin one."""
    parts = [f"python train.py --model={entry.name}"]
    recipe = entry.recipe
    if entry.results:
        identity = entry.results["config"]["identity"]
        recipe = recipe_of(identity)
        changes = {name: _changes(known, recipe) for name, known in entry.recipes.items()}
        nearest = min(changes, key=lambda name: len(changes[name]))
        flags = {} if nearest == "paper" else {"recipe": nearest}
        flags |= changes[nearest] | _changed_arguments(entry, identity["arguments"])
        flags |= {"seed": identity["seed"]}
        flags |= {} if identity["ede"] else {"ede": "off"}
        parts += [f"--{name}={_text(value)}" for name, value in flags.items()]
    if recipe.data != "digits":
        parts.append("--data_dir=D")
    return " ".join(parts)


def size_text(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.2f} MB" if count > 1e6 else f"{count / 1e3:.0f} KB"


def _of_the_run(entry):
    if not entry.results:
        return {}
    result, config = entry.results["result"], entry.results["config"]
    identity, machine = config["identity"], config["machine"]
    shipped = {**result["final"], **result.get("shipped", {})}  # the last epoch's, in float32
    best = result["best"]
    many = len(identity["data"]["classes"]) > 5
    return {
        "ours": f"{_accuracies(shipped['accuracy'], shipped['top5'] if many else None)} after the "
        f"last epoch, {100 * best['accuracy']:.2f} % in the best; one run, seed "
        f"{identity['seed']}",
        "trained on": f"{identity['data']['name']}: {identity['data']['train_images']:,} images, "
        f"tested on {identity['data']['test_images']:,}",
        "recipe, as run": _recipe(recipe_of(identity)),
        "training": f"{_hours(result['seconds'])}, {_machine(machine)}, TensorFlow "
        f"{config['versions']['tensorflow']}",
        "repeat": command(entry),
    }


def _hours(seconds):
    return f"{seconds / 3600:.1f} hours" if seconds > 3600 else f"{seconds / 60:.1f} minutes"


def _machine(machine):
    """From config.json; old runs do not say which processor it was."""
    text = machine["platform"]
    if "processor" in machine:
        text = f"{machine['cores']} core(s) of {machine['processor']}"
    gpus = sum("GPU" in device for device in machine["devices"])
    return f"{text}, {gpus} GPU(s)" if gpus else text


def _changes(known, recipe):
    """Fields of a run's recipe that differ from a known one's."""
    ours, theirs = dataclasses.asdict(recipe), dataclasses.asdict(known)
    differing = {name: value for name, value in ours.items() if value != theirs[name]}
    if differing.get("batch_size") and known.scale_lr_with_batch and recipe.scale_lr_with_batch:
        differing |= {name: ours[name] for name in ("learning_rate", "warmup_start_lr")}
    return differing


def _changed_arguments(entry, arguments):
    """Arguments of a run that are neither the entry's nor the builder's defaults."""
    parameters = inspect.signature(entry.builder).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    own = {**defaults, **entry.arguments}
    return {
        name: value
        for name, value in arguments.items()
        if name != "num_classes" and _text(own.get(name, _NOT_GIVEN)) != _text(value)
    }


def _recipe(recipe):
    changed = {
        field.name: value
        for field in dataclasses.fields(recipe)
        if (value := getattr(recipe, field.name)) != field.default
        and field.name
        not in ("data", "epochs", "batch_size", "learning_rate", "scale_lr_with_batch")
    }
    changed |= {name: getattr(recipe, name) for name in ("weight_decay", "t_min", "t_max")}
    rest = "".join(f", {name} {_text(value)}" for name, value in changed.items())
    return (
        f"{recipe.epochs} epochs of {recipe.data}, batch {recipe.batch_size}, rate "
        f"{recipe.learning_rate:g}{rest}"
    )


def _accuracies(top1, top5=None):
    return f"top-1 {100 * top1:.2f} %" + (f", top-5 {100 * top5:.2f} %" if top5 else "")


def _millions(count):
    return f"{count / 1e6:,.1f} million" if count else "no"


def _text(value):
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return "none" if value is None else str(value)
