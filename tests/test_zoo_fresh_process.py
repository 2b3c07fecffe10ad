"""A weights file without anything else, in a fresh process: accuracy, prediction, export."""

import hashlib
import json
import os
from pathlib import Path
import subprocess
import sys

from irnet_tf import data, evaluation, export
from irnet_tf.export.lce import Device
from irnet_tf.preprocessing import CIFAR10, DIGITS
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import zoo

from tests.conftest import ROOT, result_of, run_train

CIFAR10_DIR = Path(os.environ.get("IRNET_TF_DATA", ROOT.parent / "shared/original"))

SCRIPT = """
import hashlib, json, sys
import zoo
from irnet_tf import data, evaluation, export
from irnet_tf.model_config import get_model_config

name, folder, image = sys.argv[1:]
model = zoo.load("network.safetensors")
config = get_model_config(model)
result = evaluation.evaluate(model, data.load(name, folder or None))
[[(best, probability)]] = zoo.predict("network.safetensors", image, top=1)
print(json.dumps({
    "classes": config.classes,
    "mean": config.preprocessing.mean,
    "stated": config.results["accuracy"],
    "accuracy": result["accuracy"],
    "images": result["images"],
    "best": best,
    "device": hashlib.sha256(export.to_lce(model, uint8_input=True)).hexdigest(),
}))
"""


def shipped(name, folder, preprocessing):
    path = Path(zoo.__path__[0]) / "weights" / zoo.info(name).weights.file
    return name, path, folder, preprocessing


def digits(_):
    return shipped("digits/resnet20_bireal_1w1a", None, DIGITS)


def cifar10(_):
    if not (CIFAR10_DIR / "cifar10").is_dir():
        pytest.skip(f"CIFAR-10 is not in {CIFAR10_DIR}")
    return shipped("cifar10/resnet20_bireal_1w1a", CIFAR10_DIR, CIFAR10)


def own_images(folder):
    """A run on photos of other shapes than the network's, mostly red or mostly blue."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 9)):
        for channel, name in ((0, "red fox"), (2, "blue whale")):
            (folder / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (40 + i, 60, 3))
                pixels[..., channel] += 110
                path = folder / "images" / split / name / f"{i}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    name, run = "cifar10/resnet20_bireal_1w1a", folder / "run"
    run_train(
        f"--model={name}", "--recipe=fast", f"--data_dir={folder / 'images'}",
        f"--output_dir={run}", "--epochs=4", "--batch_size=8", "--learning_rate=0.02",
    )  # fmt: skip
    assert result_of(run)["best"]["accuracy"] > 0.7
    return name, run / "best.safetensors", folder / "images", CIFAR10


@pytest.mark.slow
@pytest.mark.parametrize("case", [digits, cifar10, own_images])
def test_a_weights_file_is_enough(case, tmp_path):
    pytest.importorskip("larq_compute_engine")
    name, path, folder, preprocessing = case(tmp_path)
    model = zoo.load(name, path)
    (tmp_path / "network.safetensors").write_bytes(path.read_bytes())
    source = data.load(zoo.info(name).recipe.data, folder)
    image, label = a_known_image(model, source, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, zoo.info(name).recipe.data, str(folder or ""), image],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert tuple(found["classes"]) == source.class_names
    assert found["best"] == source.class_names[label]
    assert tuple(found["mean"]) == preprocessing.mean
    assert found["images"] == source.test.num_examples
    assert found["accuracy"] == pytest.approx(found["stated"]) and found["accuracy"] > 0.7
    device = export.to_lce(model, uint8_input=True)
    assert found["device"] == hashlib.sha256(device).hexdigest()
    # Both files would contain the same wrong normalisation: here it is written out.
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    ready = (pixels / 255 - preprocessing.mean) / preprocessing.std
    difference = Device(device).predict(pixels) - model.predict(ready, verbose=0)
    assert np.median(np.abs(difference)) < 1e-3, "except for single flipped bits"


def test_digits_as_a_folder_of_files(tmp_path):
    """The folder is normalised as the network requires: 356 of 360 predictions are correct."""
    source = data.load("digits")
    for split, part in (("train", source.train), ("test", source.test)):
        images, labels = part.read(tf.range(part.num_examples if split == "test" else 100))
        for i, (image, label) in enumerate(zip(images.numpy(), labels.numpy())):
            (tmp_path / split / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / split / str(label) / f"{i}.png")
    model = zoo.load("digits/resnet20_bireal_1w1a")
    result = evaluation.evaluate(model, data.load("digits", str(tmp_path)))
    assert (result["images"], round(result["accuracy"] * 360)) == (360, 356)


def a_known_image(model, source, folder):
    """A test image that the model classifies correctly, as a file, and its label."""
    for index in range(20):
        image, label = source.test.read(tf.constant(index, tf.int64))
        content = image if image.dtype == tf.string else tf.io.encode_png(image)
        path = folder / f"{index}.png"
        path.write_bytes(content.numpy())
        [[(best, _)]] = zoo.predict(model, path, top=1)
        if best == source.class_names[int(label)]:
            return path, int(label)
    raise AssertionError("none of 20 images is classified correctly")
