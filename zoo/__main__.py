"""The zoo on the command line; `python -m zoo --help`."""

from __future__ import annotations

import argparse
import csv
import os
import sys

from irnet_tf import weights as weight_files
from irnet_tf._utils import nearest
from irnet_tf.analysis import operations
import tensorflow as tf
import zoo
from zoo.facts import facts, size_text
from zoo.loading import describe_network
from zoo.predict import image_files
from zoo.registry import SIZES

_USAGE = """\
python -m zoo [list] [PATTERN]            the networks as a table
python -m zoo info NAME_OR_FILE           all that is known of one
python -m zoo predict NAME_OR_FILE IMAGE...   classes of image files and folders
python -m zoo verify [NAME...]            accuracies of the shipped weights, measured again
python -m zoo export NAME_OR_FILE ...     a file for a device
python -m zoo sizes                       measure parameters and sizes anew, for the table
python -m zoo ship RUN                    take a finished run's weights into the package

`python -m zoo COMMAND --help` has the flags of each."""


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says.

    Args:
        argv: what follows `python -m zoo`; None: of this process.

    Raises:
        SystemExit: with one line, if that is not as it should be; with 1 if `verify` found an
            accuracy that is not as stated.
    """
    argv = sys.argv[1:] if argv is None else argv
    command, rest = (argv[0], argv[1:]) if argv else ("list", [])
    if command in ("-h", "--help", "help"):
        print(f"{__doc__}\n\n{_USAGE}")
        return
    try:
        if command == "export":
            from zoo.export import main as export

            export(rest)
        elif command in _COMMANDS:
            _COMMANDS[command](rest)
        elif any(letter in command for letter in "*?/"):
            _list(argv)
        else:
            raise ValueError(
                f"unknown command {command!r}; {nearest(command, (*_COMMANDS, 'export'))} "
                "`python -m zoo --help` explains them"
            )
    except BrokenPipeError:  # an OSError, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"zoo: {error}")


def _parser(command, text):
    return argparse.ArgumentParser(f"python -m zoo {command}", description=text, allow_abbrev=False)


def _list(argv):
    parser = _parser("list", "The networks as a table: accuracies in %, the paper's and ours.")
    parser.add_argument("pattern", nargs="?", help="such as 'cifar10/*' or '*_1w1a'")
    pattern = parser.parse_args(argv).pattern
    names = zoo.list_models(pattern)
    if not names:
        raise ValueError(f"no network is like {pattern!r}; {nearest(pattern, zoo.list_models())}")
    row = "{:32} {:>5} {:>6} {:>8}  {:>5}  {:>14}  {}".format
    print(
        "Top-1 accuracy in %: the paper's (of larq_zoo: that of their weights), and ours after the "
        "last epoch (and in the best)."
    )
    print(row("network", "W/A", "params", "size", "paper", "ours", "weights, or how to train them"))
    for name in names:
        entry = zoo.info(name)
        print(
            row(
                name,
                entry.bits,
                f"{entry.parameters / 1e6:.2f}M",
                size_text(entry.packed_size),
                "-" if entry.paper is None else f"{100 * entry.paper[0]:.1f}",
                *_ours(entry),
            )
        )


def _ours(entry):
    """Our accuracy, and what made it or could."""
    if entry.pretrained is not None:
        return "-", "larq-zoo's, which zoo.load downloads"
    if not entry.results:
        return "-", f"python train.py --model={entry.name}"
    result = entry.results["result"]
    shipped = result.get("shipped", result["final"])  # the last epoch's weights, in float32
    last, best = 100 * shipped["accuracy"], 100 * result["best"]["accuracy"]
    identity = entry.results["config"]["identity"]
    epochs, data = identity["recipe"]["epochs"], identity["data"]["name"]
    return f"{last:.2f} ({best:.2f})", f"{entry.weights.file}, {epochs} epochs, {data}"


def _info(argv):
    parser = _parser("info", "All that is known of a network of the zoo, or of a weights file.")
    parser.add_argument("name", metavar="NAME_OR_FILE")
    name = parser.parse_args(argv).name
    known = describe_network(name)
    arguments = ", ".join(f"{key}={value!r}" for key, value in known.arguments.items())
    lines = {
        "network": known.network,
        "builder": f"{known.builder}({arguments})",
        "expects": known.preprocessing and f"images: {known.preprocessing}",
        "classes": known.classes
        and f"{len(known.classes)}: {', '.join(known.classes[:20])}"
        + (" ..." if len(known.classes) > 20 else ""),
        "trained on": known.data and known.data.get("name"),
        "results": known.results and _pairs(known.results),
        "training": known.training and _pairs(known.training),
        "seed": known.seed,
        "recipe": known.recipe and _pairs(known.recipe),
        "began with": known.initialized_from and f"weights {known.initialized_from}",
    }
    if name in zoo.list_models():
        entry = zoo.info(name)
        whole = {f"recipe {title}": str(recipe) for title, recipe in entry.recipes.items()}
        for title in ("expects", "trained on", "results", "training", "seed", "recipe"):
            lines.pop(title)  # of the file; the entry knows more
        lines |= facts(entry) | whole
    for title, text in lines.items():
        if text is not None:
            print(f"{title:16} {text}")


def _pairs(values):
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def _predict(argv):
    parser = _parser("predict", "The likeliest classes of images, with their probabilities.")
    parser.add_argument("name", metavar="NAME_OR_FILE")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="JPEG or PNG files, or folders")
    parser.add_argument("--top", type=int, default=5, help="how many classes an image (5)")
    options = parser.parse_args(argv)
    files = [
        file
        for path in options.images
        for file in (image_files(path) if os.path.isdir(path) else [path])
    ]
    found = zoo.predict(options.name, files, options.top)
    for file, best in zip(files, found):
        print(file)
        for name, probability in best:
            print(f"  {100 * probability:6.2f} %  {name}")


def _verify(argv):
    parser = _parser("verify", "Accuracies of the shipped weights, on all test images.")
    parser.add_argument("names", metavar="NAME", nargs="*", help="all with weights if not given")
    parser.add_argument("--data_dir", help="where the data is, as of train.py")
    options = parser.parse_args(argv)
    names = options.names or [n for n in zoo.list_models(pretrained=True) if zoo.info(n).weights]
    for name in names:
        if zoo.info(name).weights is None:
            raise ValueError(f"{name!r} comes with no weights that could be verified")
    if not all([_verify_one(name, options.data_dir) for name in names]):
        sys.exit(1)


def _verify_one(name, data_dir) -> bool:
    from irnet_tf import data, evaluation

    entry = zoo.info(name)
    known = describe_network(name)
    stated, on = known.results["accuracy"], known.data["name"]
    try:
        needs_folder = entry.recipe.data != "digits"
        images = data.load(entry.recipe.data, data_dir if needs_folder else None)
    except (ValueError, OSError) as error:
        print(f"{name}: not verified, for want of {on}: {error}", flush=True)
        return False
    with tf.device("CPU:0"):  # whose sums the stated accuracy is of, to the image
        result = evaluation.evaluate(zoo.load(name), images)
    count = result["images"]
    right = round(result["accuracy"] * count) == round(stated * count)
    verdict = "as stated" if right else f"stated is {stated:.2%} on {on}"
    print(
        f"{name}: {result['accuracy']:.2%} of {count} test images of {images.name}, {verdict}",
        flush=True,
    )
    return right and images.name == on and count == images.test.num_examples


def _ship(argv):
    from zoo.ship import ship

    parser = _parser("ship", "Take a finished run's weights into the package.")
    parser.add_argument("run", metavar="RUN", help="its folder")
    parser.add_argument("--data_dir", help="where the data is, as of train.py")
    options = parser.parse_args(argv)
    print(f"the network's entry says:\n    weights={ship(options.run, options.data_dir)}")


def _sizes(argv):
    _parser("sizes", "Measure parameters, sizes and operations of all networks anew.").parse_args(
        argv
    )
    with open(SIZES, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["network", "parameters", "packed_size", "one_bit", "float"])
        for name in zoo.list_models():
            writer.writerow([name, *measure(name).values()])
            tf.keras.backend.clear_session()
    print(f"written: {SIZES}")


def measure(name: str) -> dict[str, int]:
    """Of a network `parameters`, bytes of the tensors in its weights file (`packed_size`), and
    operations an image (`one_bit`, `float`)."""
    model = zoo.load(name, None)
    return {
        "parameters": model.count_params(),
        "packed_size": weight_files.packed_size(model),
        **operations(model),
    }


_COMMANDS = {
    "list": _list,
    "info": _info,
    "predict": _predict,
    "verify": _verify,
    "ship": _ship,
    "sizes": _sizes,
}

if __name__ == "__main__":
    main()
