"""A weights file alone, in a fresh process: what it knows, finds, and becomes."""

import hashlib
import json
import os
from pathlib import Path
import subprocess
import sys

from irnet_tf import data, evaluation, export
from irnet_tf.export.lce import Device
from irnet_tf.model_config import get_model_config
from irnet_tf.preprocessing import CIFAR10, DIGITS
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import zoo

from tests.conftest import ROOT, result_of, run_train

SHARED = Path(os.environ.get("IRNET_TF_DATA", ROOT.parent / "shared/data"))

ALONE = """
import hashlib, json, sys
import zoo
from irnet_tf import data, evaluation, export
from irnet_tf.model_config import get_model_config
from irnet_tf.export.lce import Device

name, folder, image = sys.argv[1:]
model = zoo.load("network.safetensors")
said = get_model_config(model)
found = evaluation.evaluate(model, data.load(name, folder or None))
[[(best, probability)]] = zoo.predict("network.safetensors", image, top=1)
print(json.dumps({
    "classes": said.classes,
    "mean": said.preprocessing.mean,
    "stated": said.results["accuracy"],
    "accuracy": found["accuracy"],
    "images": found["images"],
    "best": best,
    "device": hashlib.sha256(export.to_lce(model, uint8_input=True)).hexdigest(),
}))
"""


def images_of_a_user(folder):
    """Photos of other shapes than the network's: mostly red, or mostly blue."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 9)):
        for channel, name in ((0, "red fox"), (2, "blue whale")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (40 + i, 60, 3))
                pixels[..., channel] += 110
                path = folder / split / name / f"{i}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def trained_by_a_user(tmp_path_factory):
    """(run folder, images) of a training on a folder."""
    images = images_of_a_user(tmp_path_factory.mktemp("images"))
    run = tmp_path_factory.mktemp("run")
    run_train(
        "--model=cifar10/resnet20_bireal_1w1a", "--recipe=fast", f"--data_dir={images}",
        f"--output_dir={run}", "--epochs=4", "--batch_size=8", "--learning_rate=0.02",
    )  # fmt: skip
    return run, images


def shipped(name):
    path = Path(zoo.__path__[0]) / "weights" / zoo.info(name).weights.file
    return name, path, zoo.load(name)


def digits(_):
    return *shipped("digits/resnet20_bireal_1w1a"), "", tuple("0123456789"), DIGITS


def cifar10(_):
    if not (SHARED / "cifar10").is_dir():
        pytest.skip(f"CIFAR-10 is not in {SHARED}")
    classes = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
    )  # fmt: skip
    return *shipped("cifar10/resnet20_bireal_1w1a"), SHARED, classes, CIFAR10


def own_images(request):
    run, folder = request.getfixturevalue("trained_by_a_user")
    name, path = "cifar10/resnet20_bireal_1w1a", run / "best.safetensors"
    assert (
        get_model_config(zoo.load(path)).results["accuracy"] == result_of(run)["best"]["accuracy"]
    )
    # Normalised as the network is, whatever the images.
    return name, path, zoo.load(name, path), folder, ("blue whale", "red fox"), CIFAR10


@pytest.mark.slow
@pytest.mark.parametrize("case", [digits, cifar10, own_images])
def test_it_is_enough(case, tmp_path, request):
    pytest.importorskip("larq_compute_engine")
    name, path, model, folder, classes, preprocessing = case(request)
    (tmp_path / "network.safetensors").write_bytes(path.read_bytes())
    source = data.load(zoo.info(name).recipe.data, folder or None)
    image, label = a_known_image(model, source, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, zoo.info(name).recipe.data, str(folder), image],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert tuple(found["classes"]) == classes
    assert tuple(found["mean"]) == preprocessing.mean
    count = found["images"]
    assert count == source.test.num_examples
    assert found["accuracy"] * count == pytest.approx(found["stated"] * count, abs=1e-3)
    assert found["accuracy"] > 0.7
    assert found["best"] == classes[label]
    device = export.to_lce(model, uint8_input=True)
    assert found["device"] == hashlib.sha256(device).hexdigest()
    # Both would be alike with a wrong normalisation baked in: here it is written out.
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    ready = (pixels / 255 - preprocessing.mean) / preprocessing.std
    difference = Device(device).predict(pixels) - model.predict(ready, verbose=0)
    assert np.median(np.abs(difference)) < 1e-3, "but for a bit here and there"


def test_the_same_digits_as_a_folder_of_files(tmp_path):
    """A folder is normalised as the network that is evaluated was, so that all 356 are known."""
    source = data.load("digits")
    for split, part in (("train", source.train), ("test", source.test)):
        images, labels = part.read(tf.range(part.num_examples if split == "test" else 100))
        for i, (image, label) in enumerate(zip(images.numpy(), labels.numpy())):
            (tmp_path / split / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / split / str(label) / f"{i}.png")
    model = zoo.load("digits/resnet20_bireal_1w1a")
    found = evaluation.evaluate(model, data.load("digits", str(tmp_path)))
    assert (found["images"], round(found["accuracy"] * 360)) == (360, 356)


def a_known_image(model, source, folder):
    """A test image that the model classifies rightly, as a file, and its label."""
    for index in range(20):
        image, label = source.test.read(tf.constant(index, tf.int64))
        content = image if image.dtype == tf.string else tf.io.encode_png(image)
        path = folder / f"{index}.png"
        path.write_bytes(content.numpy())
        [[(best, _)]] = zoo.predict(model, path, top=1)
        if best == source.class_names[int(label)]:
            return path, int(label)
    raise AssertionError("not one of 20 images is known")
