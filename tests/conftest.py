"""Fixtures and helpers that tests share."""

import gc
import json
import os
from pathlib import Path
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests run in a process a core; more threads would wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import irnet_tf  # noqa: F401, chooses Keras 2 before TensorFlow is imported
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

# By default it is looked for garbage every 700 new objects; TensorFlow makes millions.
gc.set_threshold(20_000, 10, 10)

ROOT = Path(__file__).parents[1]


_LONG = ("resnet34", "resnet18", "vgg_small_1w1a")


def pytest_collection_modifyitems(items):
    """What these networks show, smaller ones show, too, in less time."""
    for item in items:
        if any(name in item.name for name in _LONG):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def float64():
    tf.keras.backend.set_floatx("float64")
    yield
    tf.keras.backend.set_floatx("float32")


@pytest.fixture(autouse=True)
def _fresh_keras():
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(0)
    yield
    tf.keras.mixed_precision.set_global_policy(None)  # follow floatx again


@pytest.fixture(autouse=True, scope="module")
def _forget_graphs():
    """Frees the graphs of a module's models.

    TensorFlow registers the gradient of each `tf.custom_gradient` in a graph for good, and with it
    the graph. Over all tests that is gigabytes, and seconds for each garbage collection.
    """
    registered = gradient_registry._registry
    before = set(registered)
    yield
    for name in set(registered) - before:
        if name.startswith("CustomGradient-"):
            del registered[name]
    gc.collect()
    gc.freeze()  # what is left stays: later collections need not look at it


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def randomise_batch_norm(model, seed=0):
    """Fresh statistics (mean 0, variance 1) would hide errors."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            z = [rng.standard_normal(gamma.shape) for _ in range(4)]
            layer.set_weights(
                [1 + 0.2 * z[0], 0.1 * z[1], 0.1 * z[2], variance * np.exp(0.2 * z[3])]
            )
    return model


def run_train(*flags, env=None, check=True, **kwargs):
    """`python train.py FLAGS` in a process of its own; returns the finished process."""
    process = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *map(str, flags)],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=900,
        **kwargs,
    )
    if check and process.returncode:
        raise AssertionError(f"train.py {flags} failed:\n{process.stderr[-5000:]}")
    return process


def start_python(*arguments, env=None):
    """Python in the background, its output to be read from `.stdout`."""
    return subprocess.Popen(
        [sys.executable, "-u", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TQDM_MININTERVAL": "0", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process, text, seconds=300):
    """Reads the output up to `text`; fails if the process ends before."""
    seen = ""
    deadline = time.time() + seconds
    while text not in seen:
        assert time.time() < deadline and process.poll() is None, seen[-3000:]
        seen += process.stdout.read(1)
    return seen


def result_of(folder):
    return json.loads((Path(folder) / "result.json").read_text())


def assert_same_run(folder, other):
    """The same weights at the end, bit for bit, and the same accuracy."""
    weights, expected = (
        safetensors.numpy.load_file(Path(f) / "final.safetensors") for f in (folder, other)
    )
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)
    assert result_of(folder)["final"] == result_of(other)["final"]
