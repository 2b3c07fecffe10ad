"""A weights file without anything else, in a fresh process: accuracy and prediction."""

import json
import os
import subprocess
import sys

from irnet_tf import data, evaluation
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import zoo

from tests.conftest import ROOT, result_of, run_train

SCRIPT = """
import json
import zoo
from irnet_tf import data, evaluation
from irnet_tf.model_config import get_model_config

model = zoo.load("network.safetensors")
result = evaluation.evaluate(model, data.load("folder", "images"))
predictions = zoo.predict("network.safetensors", "images/test", top=1)
print(json.dumps([
    result["images"],
    result["accuracy"],
    get_model_config(model).results["accuracy"],
    [best for [(best, _)] in predictions],
]))
"""


@pytest.mark.slow
def test_a_weights_file_is_enough(tmp_path):
    """A run on photos of other shapes than the network's, mostly red or mostly blue."""
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    for split, count in (("train", 24), ("test", 9)):
        for channel, name in ((0, "red fox"), (2, "blue whale")):
            (images / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (40 + i, 60, 3))
                pixels[..., channel] += 110
                Image.fromarray(pixels.astype(np.uint8)).save(images / split / name / f"{i}.png")
    run = tmp_path / "run"
    run_train(
        "--model=cifar10/resnet20_bireal_1w1a", "--recipe=fast", f"--data_dir={images}",
        f"--output_dir={run}", "--epochs=4", "--batch_size=8", "--learning_rate=0.02",
    )  # fmt: skip
    stated = result_of(run)["best"]["accuracy"]
    assert stated > 0.7
    (run / "best.safetensors").rename(tmp_path / "network.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *numbers, names = json.loads(done.stdout.splitlines()[-1])
    assert numbers == [18, pytest.approx(stated), pytest.approx(stated)]
    labels = ["blue whale"] * 9 + ["red fox"] * 9  # in the order of the paths
    assert np.mean(np.equal(names, labels)) == pytest.approx(stated)


def test_digits_as_a_folder_of_files(tmp_path):
    """The folder is normalised as the network requires: 356 of 360 predictions are correct."""
    source = data.load("digits")
    for split, part, count in (("train", source.train, 100), ("test", source.test, 360)):
        images, labels = part.read(tf.range(count))
        for i, (image, label) in enumerate(zip(images.numpy(), labels.numpy())):
            (tmp_path / split / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / split / str(label) / f"{i}.png")
    model = zoo.load("digits/resnet20_bireal_1w1a")
    result = evaluation.evaluate(model, data.load("digits", str(tmp_path)))
    assert (result["images"], round(result["accuracy"] * 360)) == (360, 356)
