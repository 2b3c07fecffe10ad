"""`python -m zoo export`: a network of the zoo, or of a weights file, as a file for a device."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys

from irnet_tf import data
from irnet_tf.export import export, report_text
from irnet_tf.export.report import FORMATS, check_output
from irnet_tf.model_config import classes_of, get_model_config
import numpy as np
import zoo

_PAPER_BYTES = {"imagenet/resnet18_bireal_1w1a": 4.21e6}


def main(argv: list[str]) -> None:
    """Export; the flags are in `--help`.

    Args:
        argv: what follows the word `export`.

    Raises:
        SystemExit: with one line, if a flag or a file is not as it should be.
    """
    options = _parser().parse_args(argv)
    try:
        _export(options)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"zoo export: {error}")


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        sys.exit(f"zoo export: {message}; --help lists the flags")


def _parser():
    parser = _Parser("python -m zoo export", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("network", metavar="NAME_OR_FILE", help="of zoo.list_models(), or a weights file")
    add("--output", required=True, help="F.tflite or F.xml; reports go beside it")
    add("--format", choices=list(FORMATS), help="by the suffix of the output, if not given")
    add("--form", choices=["auto", "binary", "int8"], default="auto", help="of OpenVINO's files")
    add("--weights", default="pretrained", help="weights file, 'pretrained', or 'none' (random)")
    add("--uint8_input", action="store_true", help="take pixels, and normalise them in the file")
    add("--num_classes", type=_positive, help="with weights they say it themselves")
    add("--input_shape", type=_shape, help="height,width,channels; the network's if not given")
    add("--mean", type=_floats, help="of images of 0 to 1, a channel, if the network does not say")
    add("--std", type=_deviations, help="likewise")
    add("--data_dir", help="test images to compare on, as of train.py; else digits or noise")
    add("--validation_split", type=float, help="as of train.py, where no test images are set aside")
    add("--images", type=_positive, default=64, help="how many images to compare on (64)")
    return parser


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return number


def _shape(text):
    shape = tuple(_positive(side) for side in text.split(","))
    if len(shape) != 3:
        raise argparse.ArgumentTypeError(f"must be height,width,channels, got {text}")
    return shape


def _floats(text):
    numbers = [float(number) for number in text.split(",")]
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"must be finite numbers, got {text}")
    return numbers


def _deviations(text):
    numbers = _floats(text)
    if min(numbers) <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return numbers


def _export(options):
    check_output(options.output, options.format)
    model = _load(options)
    images, labels, images_are = _test_images(model, options)
    given = {"mean": options.mean, "std": options.std, "uint8_input": options.uint8_input}
    network = get_model_config(model).network
    report = export(
        model,
        options.output,
        images,
        labels=labels,
        images_are=images_are,
        format=options.format,
        form=options.form,
        paper_bytes=_PAPER_BYTES.get(network),
        **given,
    )
    print(report_text(report) + f"\nwritten: {options.output}, with report.* beside it")


def _load(options):
    if not options.weights or not options.network:
        raise ValueError("weights must be a file, 'pretrained' or 'none', got nothing")
    arguments = {"num_classes": options.num_classes, "input_shape": options.input_shape}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if options.weights == "none":
        return zoo.load(options.network, None, **arguments)
    # The classifier is that of the file: with another num_classes it would be a random one.
    arguments.pop("num_classes", None)
    model = zoo.load(options.network, options.weights, **arguments)
    classes = model.output_shape[-1]
    if options.num_classes not in (None, classes):
        raise ValueError(
            f"the weights are for num_classes={classes}, got num_classes={options.num_classes}: "
            "leave it out, or train a classifier for so many classes first"
        )
    return model


def _test_images(model, options):
    """(images as the file takes them, labels or None, what they are)."""
    shape, description = model.input_shape[1:], get_model_config(model)
    expected = description.preprocessing
    labels = None
    known = description.network in zoo.list_models()
    name = zoo.info(description.network).recipe.data if known else "folder"
    if options.data_dir is None and name != "digits":
        pixels, images_are = _noise(options.images, shape), "noise, for want of data_dir"
    elif expected is None:
        pixels = _noise(options.images, shape)
        images_are = "noise, as the network does not say what it expects of images"
    elif shape[0] != shape[1] or shape[2] != 3:
        pixels, images_are = _noise(options.images, shape), f"noise, as images are not {shape}"
    else:
        source = data.load(name, options.data_dir, validation_split=options.validation_split)
        pixels, labels = _take(source.test, expected, options.images)
        images_are = f"test images of {source.name.removeprefix('images of ')}"
        try:
            source.check_classes(classes_of(model))
        except ValueError:  # the labels are of other classes
            labels = None
    if options.uint8_input:
        return pixels, labels, images_are
    if expected is not None and shape[2] == 3:
        return expected.normalise(pixels).numpy(), labels, images_are
    return ((pixels / 255 - 0.5) / 0.25).astype(np.float32), labels, images_are


def _take(split, preprocessing, count):
    """The first images of a split as uint8 pixels, and their labels."""
    as_they_are = dataclasses.replace(preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    batches = data.evaluation_batches(split, batch_size=min(count, 64), preprocessing=as_they_are)
    taken = list(batches.unbatch().take(count).as_numpy_iterator())
    pixels = np.stack([image for image, _ in taken])
    return np.rint(pixels * 255).astype(np.uint8), np.array([label for _, label in taken])


def _noise(count, shape):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


if __name__ == "__main__":
    main(sys.argv[1:])
