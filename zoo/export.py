"""`python -m zoo export`: a network of the zoo, or a weights file, as a file for a device."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from irnet_tf import data
from irnet_tf.description import describe
from irnet_tf.export import export, report_text
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.weights import read_facts
import numpy as np
import zoo

_PAPER_BYTES = {"imagenet/resnet18_bireal_1w1a": 4.21e6}


def main(argv: list[str]) -> None:
    """Exports; the flags are in `--help`.

    Args:
        argv: what follows the word `export`.

    Raises:
        SystemExit: with one line, if a flag or a file is not as it should be.
    """
    options = _parser().parse_args(argv)
    try:
        _export(options)
    except (ValueError, OSError) as error:
        sys.exit(f"zoo export: {error}")


def _parser():
    parser = argparse.ArgumentParser(
        "python -m zoo export", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("network", metavar="NAME_OR_FILE", help="of zoo.list_models(), or a weights file")
    add("--output", required=True, help="the file; reports go beside it")
    add("--weights", default="pretrained", help="weights file, 'pretrained', or 'none' (random)")
    add("--uint8_input", action="store_true", help="take bytes, and normalise them in the file")
    add("--num_classes", type=int, help="the weights file's, else the model's, if not given")
    add("--input_shape", type=_numbers(int), help="height,width,channels; else the model's")
    add("--mean", type=_numbers(float), help="a channel, of 0 to 1; the data's if not given")
    add("--std", type=_numbers(float), help="a channel, of 0 to 1; the data's if not given")
    add("--data_dir", help="test images to compare on, as of train.py; else noise")
    add("--images", type=int, default=64, help="how many images to compare on (64)")
    return parser


def _numbers(kind):
    def read(text):
        return [kind(number) for number in text.split(",")]

    read.__name__ = f"list of {kind.__name__}"
    return read


def _export(options):
    name, weights = options.network, options.weights
    if Path(name).suffix == ".safetensors":
        name, weights = read_facts(name)["network"], name
    entry = zoo.info(name)
    weights = None if weights == "none" else weights
    arguments = {"num_classes": options.num_classes, "input_shape": options.input_shape}
    if options.num_classes is None and weights not in (None, "pretrained"):
        arguments["num_classes"] = len(read_facts(weights)["data"]["classes"])
    arguments = {name: value for name, value in arguments.items() if value is not None}
    model = zoo.load(name, weights, **arguments)

    pixels, images_are, mean, std = _test_images(entry.recipe, model, options)
    if options.uint8_input and (mean is None or std is None):
        raise ValueError(
            "uint8_input needs the normalisation that the network was trained with: give "
            "data_dir, or mean and std"
        )
    images, given = pixels, {"mean": mean, "std": std, "uint8_input": True}
    if not options.uint8_input:
        scale, offset = 255 * np.array(std or 0.25), np.array(mean or 0.5)
        images, given = (pixels / scale - offset * 255 / scale).astype(np.float32), {}
    paper = _PAPER_BYTES.get(name)
    report = export(
        model, options.output, images, images_are=images_are, paper_bytes=paper, **given
    )
    print(report_text(report) + f"\nwritten: {options.output}, with report.* beside it")


def _test_images(recipe, model, options):
    """(uint8 images, what they are, mean, std): the network's test data, or noise."""
    shape, expected = model.input_shape[1:], describe(model).preprocessing
    mean, std = options.mean, options.std
    if options.data_dir is None and recipe.data != "digits":
        return _noise(options.images, shape), "noise, for want of --data_dir", mean, std
    source = data.load(recipe.data, options.data_dir)
    mean, std = mean or expected.mean, std or expected.std
    if shape[0] != shape[1] or shape[2] != 3:
        return _noise(options.images, shape), f"noise, as images are not {shape}", mean, std
    batches = data.evaluation_batches(
        source.test,
        batch_size=min(options.images, 64),
        preprocessing=Preprocessing(shape[0], (0.0,) * 3, (1.0,) * 3, expected.crop),
    ).unbatch()
    chosen = [image for image, _ in batches.take(options.images).as_numpy_iterator()]
    return (
        np.rint(np.stack(chosen) * 255).astype(np.uint8),
        f"test images of {source.name}",
        mean,
        std,
    )


def _noise(count, shape):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


if __name__ == "__main__":
    main(sys.argv[1:])
