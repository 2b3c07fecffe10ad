"""Facts about a network as text, for `python -m zoo info` and the documentation."""

from __future__ import annotations

import datetime
import textwrap

from irnet_tf import weights
from irnet_tf.analysis import operations
from irnet_tf.model_config import ModelConfig
import tensorflow as tf
from zoo.loading import load
from zoo.registry import Entry


def measure(name: str) -> dict[str, int]:
    """The columns of `sizes.csv` for a network, see `Entry.sizes`."""
    tf.keras.backend.clear_session()
    model = load(name, None)
    return {
        "parameters": model.count_params(),
        "trainable": sum(int(w.shape.num_elements()) for w in model.trainable_weights),
        "packed_size": weights.packed_size(model),
        **operations(model),
    }


def config_facts(config: ModelConfig) -> dict[str, str]:
    """Fields of a model config as text, for `info` of a weights file."""
    values = config.to_dict() | {"preprocessing": str(config.preprocessing)}
    return {name: textwrap.shorten(_text(value), 300) for name, value in values.items()}


def facts(entry: Entry) -> dict[str, str]:
    """Titles and texts about a network of the zoo."""
    sizes = entry.sizes
    lines = {
        "W/A": f"{entry.bits} bit",
        "preprocessing": str(entry.preprocessing),
        "parameters": f"{sizes['parameters']:,} ({sizes['trainable']:,} trainable), "
        f"{size_text(sizes['packed_size'])} in a weights file",
        "operations": f"{_millions(sizes['one_bit'])} 1-bit, {_millions(sizes['float'])} float per "
        "image (a multiplication with its addition is one operation)",
        "paper" if entry.pretrained is None else "larq-zoo's weights": entry.paper
        and _accuracies(*entry.paper),
        **_run_facts(entry),
        "file": entry.weights
        and f"{entry.weights.file}, {entry.weights.size:,} bytes, SHA-256 {entry.weights.sha256}",
        **{f"recipe {name}": _recipe(vars(recipe)) for name, recipe in entry.recipes.items()},
    }
    if not entry.results and entry.pretrained is None:
        lines["train"] = command(entry)
    return {title: text for title, text in lines.items() if text}


def command(entry: Entry) -> str:
    """The command that repeats the run of the shipped weights, or trains new ones."""
    flags = {"model": entry.name}
    if entry.results:
        flags |= entry.results["config"]["flags"]
    flags = {name: value for name, value in flags.items() if not name.endswith("_dir")}
    if entry.recipe.data != "digits":
        flags["data_dir"] = "D"
    return " ".join(["python train.py", *(f"--{name}={value}" for name, value in flags.items())])


def size_text(count: int) -> str:
    """A number of bytes in KB or MB."""
    return f"{count / 1e6:.2f} MB" if count > 1e6 else f"{count / 1e3:.0f} KB"


def _run_facts(entry):
    if not entry.results:
        return {}
    result, config = entry.results["result"], entry.results["config"]
    identity, machine = config["identity"], config["machine"]
    shipped, data = result["shipped"], identity["data"]
    top5 = shipped["top5"] if len(data["classes"]) > 5 else None
    gpus = sum("GPU" in device for device in machine["devices"])
    return {
        "ours": f"{_accuracies(shipped['accuracy'], top5)} after the last epoch, "
        f"{100 * result['best']['accuracy']:.2f} % in the best; one run, seed {identity['seed']}",
        "trained on": f"{data['name']}: {data['train_images']:,} training and "
        f"{data['test_images']:,} test images",
        "recipe of the run": _recipe(identity["recipe"]),
        "run": f"{datetime.timedelta(seconds=round(result['seconds']))} h, "
        f"{machine.get('processor', machine['platform'])}{f', {gpus} GPU(s)' if gpus else ''}, "
        f"TensorFlow {config['versions']['tensorflow']}",
        "note": config.get("note"),
        "repeat": command(entry),
    }


def _recipe(fields):
    return _text({name: value for name, value in fields.items() if value})


def _text(value):
    """A JSON value without quotes and braces."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, (list, tuple)) else str(value)


def _accuracies(top1, top5=None):
    return f"top-1 {100 * top1:.2f} %" + (f", top-5 {100 * top5:.2f} %" if top5 else "")


def _millions(count):
    return f"{count / 1e6:,.1f} million" if count else "no"
