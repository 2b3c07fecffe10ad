"""Flags of `train.py` by group, with their help text."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import textwrap

from absl import flags
from irnet_tf._utils import nearest
from irnet_tf.data.augment import AUGMENTATIONS
from irnet_tf.training.distribute import STRATEGIES
from irnet_tf.training.recipe import PRECISIONS, Recipe

NUMBERS = "numbers separated by commas"
# Name: type or choices, default, help. A default of None: the value of the recipe or network.
GROUPS = {
    "main": {
        "model": (str, "digits/resnet20_bireal_1w1a", "network; `python -m zoo list` shows all"),
        "recipe": (str, None, "recipe of the network: paper, fast (cifar10/* only) or finetune; "
                   "default: finetune with --weights, otherwise paper"),
        "data_dir": (str, None, "data set prepared by TensorFlow Datasets, or your images in "
                     "train/CLASS/* and test/CLASS/* or val/CLASS/*"),
        "output_dir": (str, None, "run folder; default: runs/MODEL"),
        "mode": (("train", "evaluate"), "train", "train, or evaluate a run or weights"),
        "weights": (str, None, "initial or evaluated weights: a file or 'pretrained'; default: "
                    "random weights (train), the run's best (evaluate)"),
        "epochs": (int, None, "number of epochs"),
        "batch_size": (int, None, "global batch size"),
        "learning_rate": (float, None, "peak learning rate"),
        "seed": (int, 0, "seed of initial weights, data order and augmentation"),
    },
    "run": {
        "resume": (bool, True, "resume the run in output_dir"),
        "overwrite": (bool, False, "delete the run in output_dir and start again"),
        "strategy": (STRATEGIES, "auto", "distribution strategy"),
        "sync_batch_norm": (bool, False, "batch norm statistics over all replicas"),
        "jit_compile": (bool, False, "compile the training step with XLA; for GPUs"),
        "log_details": (bool, False, "flip ratios, gradient norms and histograms of each layer"),
        "ede": (("on", "off"), "on", "EDE; off keeps t at t_min"),
    },
    "data": {
        "data": (str, None, "digits, cifar10, imagenet2012 or folder (your images)"),
        "validation_split": (float, None, "fraction of your images for testing, if there is no "
                             "test folder; default: none"),
        "augmentation": (tuple(AUGMENTATIONS), None, "augmentation of training images"),
    },
    "recipe": {
        "lr_schedule": (("cosine", "linear", "step"), None, "learning rate schedule"),
        "decay_at": (NUMBERS, None, "fractions of the run at which 'step' divides by ten"),
        "warmup": (float, None, "fraction of the run for linear warm-up"),
        "warmup_start_lr": (float, None, "learning rate at the start of the warm-up"),
        "momentum": (float, None, "SGD momentum"),
        "nesterov": (bool, None, "Nesterov momentum"),
        "weight_decay": (float, None, "L2 regularisation of every parameter"),
        "classifier_lr_scale": (float, None, "learning rate multiplier of the classifier"),
        "scale_lr_with_batch": (bool, None, "scale the learning rate with --batch_size"),
        "t_min": (float, None, "EDE's t at the start"),
        "t_max": (float, None, "EDE's t at the end"),
        "mixed_precision": (("none", *PRECISIONS[1:]), None, "Keras policy, or none "
                            "(float32); default: the recipe's (train), none (evaluate)"),
    },
    "network": {
        "weight_bits": (int, None, "1 or 32"),
        "activation_bits": (int, None, "1 or 32"),
        "kernel_quantizer": (str, None, "Larq quantizer instead of libra_pb"),
        "input_quantizer": (str, None, "Larq quantizer instead of ede_sign"),
        "depth": (int, None, "layers of a ResNet"),
        "structure": (("bireal", "normal"), None, "structure of a ResNet"),
        "stem": (("imagenet", "cifar"), None, "first layers of ResNet-18 and ResNet-34"),
        "padding": (("same", "symmetric"), None, "padding at stride 2, TensorFlow's or PyTorch's"),
        "num_classes": (int, None, "number of classes; default: the data's"),
        "input_shape": (NUMBERS, None, "height,width,3"),
    },
}  # fmt: skip
RECIPE = [field.name for field in dataclasses.fields(Recipe)]
NETWORK = list(GROUPS["network"])
NAMES = [name for group in GROUPS.values() for name in group]
# Arguments of `irnet_tf.training.train`.
OPTIONS = ("seed", "resume", "overwrite", "sync_batch_norm", "jit_compile", "log_details")


class _Numbers(flags.ArgumentParser):
    """A tuple from numbers separated by commas."""

    syntactic_help = NUMBERS

    def parse(self, argument):
        return tuple(float(x) if "." in x else int(x) for x in argument.split(","))


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines all flags."""
    types = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
    }
    for group in GROUPS.values():
        for name, (kind, default, text) in group.items():
            if kind == NUMBERS:
                flags.DEFINE(_Numbers(), name, default, text, flag_values=values)
            elif isinstance(kind, tuple):
                flags.DEFINE_enum(name, default, list(kind), text, flag_values=values)
            else:
                types[kind](name, default, text, flag_values=values)


def help_text() -> str:
    """The text of `train.py --help`."""
    lines = []
    for group, members in GROUPS.items():
        lines += ["", f"{group}:"]
        for name, (kind, default, text) in members.items():
            shown = f"--[no]{name}" if kind is bool else f"--{name}"
            if isinstance(kind, tuple) and kind != ("train", "evaluate"):
                text = f"{text} ({', '.join(kind)})"
            if "default:" not in text:
                inherited = "network's" if group == "network" else "recipe's"
                text += f" [{inherited if default is None and name != 'data_dir' else default}]"
            text = textwrap.wrap(text.replace(" [None]", ""), 70)
            lines += [f"  {shown:<27}{text[0]}", *(" " * 29 + line for line in text[1:])]
    return "\n".join(lines)


def given(values: flags.FlagValues, names) -> dict:
    """Values of the flags that are set."""
    return {name: values[name].value for name in names if values[name].value is not None}


def check(values: flags.FlagValues, arguments: list[str]) -> None:
    """Raises ValueError for arguments without `--`, empty flags and unsuitable quantizers."""
    if len(arguments) > 1:
        raise ValueError(f"did not understand {' '.join(arguments[1:])}; flags begin with --")
    for name in NAMES:
        if values[name].value == "":
            raise ValueError(f"--{name} is empty; give a value or leave it out")
    if values.input_quantizer == "libra_pb":
        raise ValueError("--input_quantizer=libra_pb quantizes kernels only; use ede_sign")


def make_recipe(recipes: Mapping[str, Recipe], values: flags.FlagValues) -> Recipe:
    """The recipe that `--recipe` names, with the values of other flags.

    Raises:
        ValueError: If there is no such recipe, a value is out of range, or flags contradict.
    """
    name = values.recipe or ("finetune" if values.weights else "paper")
    if name not in recipes:
        raise ValueError(f"unknown recipe {name!r}; {nearest(name, recipes)}")
    changes = given(values, RECIPE)
    recipe = recipes[name]
    if changes.get("mixed_precision") == "none":
        recipe = dataclasses.replace(recipe, mixed_precision=None)
        del changes["mixed_precision"]
    recipe = recipe.replace(**changes)
    if "decay_at" in changes and recipe.lr_schedule != "step":
        raise ValueError(
            f"--decay_at needs --lr_schedule=step; the schedule is {recipe.lr_schedule!r}"
        )
    if changes.get("lr_schedule") == "step" and not recipe.decay_at:
        raise ValueError("--lr_schedule=step needs --decay_at, such as 0.5,0.75")
    if changes.get("warmup_start_lr") and not recipe.warmup:
        raise ValueError("--warmup_start_lr needs --warmup")
    return recipe
