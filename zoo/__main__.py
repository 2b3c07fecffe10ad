"""The zoo on the command line. `python -m zoo COMMAND --help` lists the flags of a command."""

from __future__ import annotations

import argparse
import csv
import functools
import os
import sys

import zoo

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no start-up messages

_COMMANDS = {
    "list": "networks as a table (the default command)",
    "info": "all that is known about a network or a weights file",
    "predict": "classes of image files and folders",
    "verify": "evaluate the shipped weights again and compare with the stated accuracies",
    "export": "write a network as a file for a device",
    "sizes": "measure parameters, sizes and operations of all networks again",
    "ship": "copy the weights and results of a finished run into the package",
}


def main(argv: list[str] | None = None) -> None:
    """Run a command; exit code 1 if it fails, or if `predict` could not read a file."""
    options = _parser().parse_args((sys.argv[1:] if argv is None else argv) or ["list"])
    try:
        globals()[f"_{options.command}"](options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"zoo: {error}")


def _parser():
    parser = argparse.ArgumentParser("python -m zoo", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = {
        name: commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for name, text in _COMMANDS.items()
    }
    network = {"metavar": "NAME_OR_FILE", "help": "name of a network, or a weights file"}
    data_dir = {"help": "folder of the data, as in train.py"}
    add["list"].add_argument("pattern", nargs="?", help="such as cifar10 or '*_1w1a'")
    add["info"].add_argument("network", **network)
    add["predict"].add_argument("network", **network)
    add["predict"].add_argument("images", metavar="IMAGE", nargs="+", help="image files or folders")
    add["predict"].add_argument("--top", type=_positive, default=5, help="classes per image (5)")
    add["verify"].add_argument("names", metavar="NAME", nargs="*", help="default: all with weights")
    add["verify"].add_argument("--data_dir", **data_dir)
    add["ship"].add_argument("run", metavar="RUN", help="run folder")
    add["ship"].add_argument("--data_dir", **data_dir)
    flag = add["export"].add_argument
    flag("network", **network)
    flag("--output", required=True, help="F.tflite or F.xml; the reports go to the same folder")
    flag("--format", choices=["lce", "openvino"], help="default: by the suffix of --output")
    flag(
        "--form", choices=["auto", "binary", "int8"], default="auto", help="form of OpenVINO files"
    )
    flag("--weights", default="pretrained", help="weights file, 'pretrained', or 'none' (random)")
    flag("--uint8_input", action="store_true", help="take pixels and normalise them in the file")
    flag(
        "--mean",
        type=_floats,
        help="R,G,B of pixels in 0 to 1, if the network has no preprocessing",
    )
    flag("--std", type=_floats, help="R,G,B, with --mean")
    flag("--validation_split", type=float, help="as in train.py, for data without test images")
    flag("--data_dir", help="folder of test images to compare on; default: digits or noise")
    flag("--images", type=_positive, default=64, help="number of images to compare on (64)")
    return parser


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text}")
    return number


def _floats(text):
    return [float(number) for number in text.split(",")]


def _list(options):
    from zoo.facts import size_text
    from zoo.registry import suggestions

    names = zoo.list_models(options.pattern)
    if not names:
        raise ValueError(f"no network matches {options.pattern!r}; {suggestions(options.pattern)}")
    row = "{:32} {:>5} {:>6} {:>8}  {:>5}  {:>14}  {}".format
    print(
        "W/A: bits of weights and activations. params: all parameters. paper: top-1 accuracy in %"
    )
    print("in the paper (larq_zoo: of larq-zoo's weights). ours: last epoch (best epoch).\n")
    print(row("network", "W/A", "params", "size", "paper", "ours", "weights, or how to train them"))
    for name in names:
        entry = zoo.info(name)
        ours, weights = "-", f"python train.py --model={name}"
        if entry.pretrained is not None:
            weights = "larq-zoo's, downloaded by zoo.load"
        elif entry.results:
            result, identity = entry.results["result"], entry.results["config"]["identity"]
            last, best = (100 * result[part]["accuracy"] for part in ("shipped", "best"))
            ours = f"{last:.2f} ({best:.2f})"
            epochs, data = identity["recipe"]["epochs"], identity["data"]["name"]
            weights = f"{entry.weights.file}, {epochs} epochs, {data}"
        paper = f"{100 * entry.paper[0]:.1f}" if entry.paper else "-"
        parameters = f"{entry.sizes['parameters'] / 1e6:.2f}M"
        size = size_text(entry.sizes["packed_size"])
        print(row(name, entry.bits, parameters, size, paper, ours, weights))


def _info(options):
    from zoo.facts import config_facts, facts
    from zoo.loading import find_model_config

    known = config_facts(find_model_config(options.network))
    if options.network in zoo.list_models():
        titles = ("network", "builder", "arguments", "classes")
        known = {title: known.get(title) for title in titles} | facts(zoo.info(options.network))
    for title, text in known.items():
        if text:
            print(f"{title:16} {text}")


def _predict(options):
    from zoo.runtime import Runner, predict_files

    if options.network.endswith((".xml", ".tflite")):
        predict = Runner(options.network).predict
    else:
        predict = functools.partial(zoo.predict, zoo.load(options.network))
    if not predict_files(predict, options.images, options.top):
        sys.exit(1)


def _verify(options):
    from irnet_tf import data, evaluation
    import tensorflow as tf
    from zoo.loading import find_model_config

    equal = True
    names = options.names or [n for n in zoo.list_models(pretrained=True) if zoo.info(n).weights]
    for name in names:
        config = find_model_config(name)
        if config.results is None:
            raise ValueError(f"{name!r} has no weights to verify")
        stated, on = config.results["accuracy"], config.data["name"]
        source = config.recipe["data"]
        images = data.load(source, None if source == "digits" else options.data_dir)
        with tf.device("CPU:0"):  # GPUs add in another order
            result = evaluation.evaluate(zoo.load(name), images)
        count = result["images"]
        same = (images.name, round(result["accuracy"] * count)) == (on, round(stated * count))
        verdict = "as stated" if same else f"but stated is {stated:.2%} on {on}"
        print(f"{name}: {result['accuracy']:.2%} of {count} images of {images.name}, {verdict}")
        equal = equal and same
    if not equal:
        sys.exit(1)


def _export(options):
    from zoo.export import export

    export(options)


def _ship(options):
    from zoo.ship import ship

    print(f"written: {ship(options.run, options.data_dir)}")


def _sizes(options):
    from zoo.facts import measure
    from zoo.registry import SIZES

    rows = [{"network": name, **measure(name)} for name in zoo.list_models()]
    with open(SIZES, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: {SIZES}")


if __name__ == "__main__":
    main()
