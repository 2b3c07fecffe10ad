"""`python -m zoo export`: writes a network as a file for a device and compares the two."""

from __future__ import annotations

import argparse
import dataclasses

from irnet_tf import data
from irnet_tf import export as exporting
from irnet_tf.export.report import check_output
from irnet_tf.model_config import classes_of, get_model_config, set_model_config
from irnet_tf.preprocessing import Preprocessing
import numpy as np
import tensorflow as tf
import zoo


def export(options: argparse.Namespace) -> None:
    """Export a network and print the report; `options`: flags of the command."""
    check_output(options.output, options.format)
    model = _load(options)
    images, labels, source = _test_images(model, options)
    report = exporting.export(
        model,
        options.output,
        images,
        labels=labels,
        images_source=source,
        format=options.format,
        form=options.form,
        uint8_input=options.uint8_input,
    )
    print(f"{exporting.report_text(report)}\nwritten: {options.output}, with report.* beside it")


def _load(options):
    model = zoo.load(options.network, None if options.weights == "none" else options.weights)
    if options.mean or options.std:
        config, size = get_model_config(model), model.input_shape[1]
        if config.preprocessing:
            raise ValueError(f"the network has its own ({config.preprocessing}); omit mean and std")
        mean, std = (3 * v if v and len(v) == 1 else v for v in (options.mean, options.std))
        preprocessing = Preprocessing(size, mean, std)
        set_model_config(model, dataclasses.replace(config, preprocessing=preprocessing))
    return model


def _test_images(model, options):
    """Inputs of the file, labels or None, and the name of their source."""
    config = get_model_config(model)
    known = config.network in zoo.list_models()
    name = zoo.info(config.network).recipe.data if known else "folder"
    preprocessing, labels = config.preprocessing, None
    if preprocessing and (options.data_dir or name == "digits"):
        images = data.load(name, options.data_dir, validation_split=options.validation_split)
        pixels, labels = _take(images.test, preprocessing, options.images)
        source = f"test images of {images.name.removeprefix('images of ')}"
        try:
            images.check_classes(classes_of(model))
        except ValueError:  # the images show other classes
            labels = None
    else:
        shape = (options.images, *model.input_shape[1:])
        pixels, source = np.random.default_rng(0).integers(0, 256, shape, np.uint8), "noise"
    if options.uint8_input:
        return pixels, labels, source
    if preprocessing:
        return preprocessing.normalise(pixels).numpy(), labels, source
    return ((pixels / 255 - 0.5) / 0.25).astype(np.float32), labels, source


def _take(split, preprocessing, count):
    """The first images of a split as uint8 pixels, and their labels."""
    raw = dataclasses.replace(preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    batches = data.evaluation_batches(split, batch_size=min(count, 64), preprocessing=raw)
    images, labels = zip(*batches.unbatch().take(count).as_numpy_iterator())
    return tf.cast(tf.round(np.stack(images) * 255), tf.uint8).numpy(), np.array(labels)
