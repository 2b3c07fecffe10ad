"""Evaluation and its report, against counts by hand and other libraries."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys

from irnet_tf import evaluation
from irnet_tf.data import Data
from irnet_tf.data.dataset import in_memory
from irnet_tf.model_config import ModelConfig, set_model_config
from irnet_tf.preprocessing import DIGITS, Preprocessing
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT

HALF = Preprocessing(4, (0.5,) * 3, (0.5,) * 3)


class Table(tf.keras.layers.Layer):
    """Row of a table of outputs that an image's first pixel selects."""

    def __init__(self, table):
        super().__init__()
        self.table = tf.constant(table, tf.float32)

    def call(self, images):
        pixel = tf.cast(tf.round((images[:, 0, 0, 0] + 1) / 2 * 255), tf.int32)
        return tf.gather(self.table, pixel)


def case(logits, labels, output="logits", classes=None):
    """A network with these outputs for the images of a data set with these labels."""
    classes = classes or tuple("abcdefgh"[: len(logits[0])])
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    split = in_memory(np.broadcast_to(pixels, (len(labels), 4, 4, 3)), labels)
    inputs = tf.keras.layers.Input((4, 4, 3))
    model = tf.keras.Model(inputs, Table(logits)(inputs))
    set_model_config(model, ModelConfig("x", {}, preprocessing=HALF, output=output))
    return model, Data("things", split, split, classes)


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def random_case(rng):
    return case(rng.normal(0, 2, (250, 7)), rng.integers(0, 7, 250))


def test_numbers_agree_with_keras_and_scikit_learn(random_case, tmp_path):
    from sklearn.metrics import confusion_matrix, precision_score, recall_score

    model, data = random_case
    evaluated = evaluation.evaluate(model, data)
    summary = evaluation.report(model, data, tmp_path, title="net")
    images, labels = data.test.read(np.arange(250))
    logits = model(HALF.normalise(images))
    predicted = np.argmax(logits, 1)
    keras = {
        "top5": tf.keras.metrics.sparse_top_k_categorical_accuracy(labels, logits, 5),
        "loss": tf.keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True),
    }
    for found in (evaluated, summary):
        assert found["accuracy"] == np.mean(predicted == labels)
        for name, values in keras.items():
            assert found[name] == pytest.approx(float(np.mean(values)), rel=1e-5)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == summary
    table = [[int(row[c]) for c in data.class_names] for row in rows(tmp_path / "confusion.csv")]
    np.testing.assert_array_equal(table, confusion_matrix(labels, predicted))
    by_class = [line.split() for line in (tmp_path / "classes.txt").read_text().splitlines()[2:9]]
    scores = [score(labels, predicted, average=None) for score in (precision_score, recall_score)]
    found = [[float(value) for value in line[1:3]] for line in by_class]
    np.testing.assert_allclose(found, np.transpose(scores), atol=1e-4)
    for name, words in (
        ("confusion", ("predicted class", "true class", "% of the images", "net on things")),
        ("calibration", ("accuracy, %", "confidence in the predicted class, %", "images, %")),
    ):
        drawn = (tmp_path / f"{name}.svg").read_text()
        assert all(word in drawn for word in words)


def test_calibration_by_hand(tmp_path):
    """Nine in ten sure and right in three of four; six in ten sure and right in none."""
    sure, unsure = np.log([0.9, 0.1]), np.log([0.6, 0.4])
    model, data = case([sure] * 4 + [unsure] * 4, [0, 0, 0, 1, 1, 1, 1, 1])
    summary = evaluation.report(model, data, tmp_path)
    assert summary["mean_confidence"] == pytest.approx(0.75)
    assert summary["expected_calibration_error"] == pytest.approx(0.5 * 0.15 + 0.5 * 0.6)
    assert "top5" not in summary


def test_the_worst_mistakes_come_first_with_their_pictures(tmp_path, monkeypatch):
    """Ordered by the confidence shown, not by the probability of the true class."""
    monkeypatch.setattr(evaluation, "_MAX_PICTURES", 2)
    model, data = case(np.log([[0.5, 0.3, 0.2], [0.6, 0.39, 0.01], [0.1, 0.55, 0.35]]), [1, 1, 0])
    evaluation.report(model, data, tmp_path)
    mistakes = rows(tmp_path / "mistakes.csv")
    assert [row["image"] for row in mistakes] == ["example 1", "example 2", "example 0"]
    assert (mistakes[0]["true"], mistakes[0]["predicted"]) == ("b", "a")
    drawn = (tmp_path / "mistakes.svg").read_text()
    assert "a, 60 %" in drawn and "b, 55 %" in drawn and "a, 50 %" not in drawn


def test_the_pictures_are_those_of_the_mistakes():
    _, data = case([[0.0]] * 9, range(9))
    opened = dataclasses.replace(  # as prepared data sets are read
        data.test,
        side=None,
        open=tf.data.Dataset.from_tensors,
        read=lambda i: (tf.io.encode_png(data.test.read(i)[0]), i),
    )
    for split in (data.test, opened):
        found = evaluation._pictures(split, np.array([7, 2]), HALF)
        np.testing.assert_allclose(found[:, 3, 3, 0] * 255, [7, 2], atol=1e-4)


def test_probabilities_are_taken_as_they_are(tmp_path):
    shares = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]
    model, data = case(shares, [0, 1], output="probabilities")
    summary = evaluation.report(model, data, tmp_path)
    assert (summary["mean_confidence"], summary["accuracy"]) == (pytest.approx(0.65), 1)
    assert rows(tmp_path / "mistakes.csv") == []
    assert not (tmp_path / "mistakes.png").exists()
    lines = (tmp_path / "classes.txt").read_text().splitlines()
    assert lines[4].split() == ["c", "nan", "nan", "nan", "0"]  # a class without a test image


def test_a_share_of_half_a_percent_is_not_drawn_as_zero(tmp_path):
    evaluation.draw_confusion(("a", "b"), np.array([[995, 5], [0, 1000]]), tmp_path / "confusion")
    drawn = re.findall(r">([^<>]+)</text>", (tmp_path / "confusion.svg").read_text())
    assert "&lt;1" in drawn
    assert drawn.count("0") == 1  # the colour bar's


def test_class_names_are_text(tmp_path):
    """No header of confusion.csv and no formula of Matplotlib's."""
    model, data = case([(2, 1), (0, 1), (1, 0)], [0, 1, 1], classes=("$_$", "true"))
    evaluation.report(model, data, tmp_path)
    assert (tmp_path / "confusion.csv").read_text() == "true,$_$,true\n$_$,1,0\ntrue,1,1\n"
    assert "$_$" in (tmp_path / "mistakes.svg").read_text()


REPLICAS = """
import json, tests.conftest, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from irnet_tf import evaluation
from tests.tiny import tiny_data, tiny_network
found = []
for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
    with tf.distribute.MirroredStrategy(devices).scope():
        model = tiny_network()
        model.set_weights([tf.random.stateless_normal(w.shape, (1, 2)) ** 2 for w in model.weights])
    found.append(evaluation.evaluate(model, tiny_data(23)))
try:
    evaluation.evaluate(model, tiny_data(1))
except ValueError as error:
    found.append(str(error))
print(json.dumps(found))
"""


def test_replicas_count_every_image_once(tmp_path):
    """23 images are one batch: each replica gets a part of it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two, error = json.loads(done.stdout.splitlines()[-1])
    assert one["images"] == two["images"] == 23
    assert one["accuracy"] == two["accuracy"]
    assert one["loss"] == pytest.approx(two["loss"])
    assert error.startswith("2 replicas cannot share 1 test images")


def test_a_network_for_other_classes_is_rejected(random_case, tmp_path):
    model, data = random_case
    other = Data("others", data.test, data.test, ("a", "b"))
    with pytest.raises(ValueError, match="trained on 7 classes, others has a, b; give"):
        evaluation.report(model, other, tmp_path)
    set_model_config(model, ModelConfig("x", {}, preprocessing=HALF, classes=tuple("gfedcba")))
    with pytest.raises(ValueError, match="classes g, f, e, d, c and 2 more, things has a, b, c"):
        evaluation.report(model, data, tmp_path)
    set_model_config(model, ModelConfig("x", {}))
    with pytest.raises(ValueError, match="has no preprocessing"):
        evaluation.report(model, data, tmp_path)
    with pytest.raises(ValueError, match="input has shape .* gives size 32"):
        evaluation.evaluate(model, data, preprocessing=DIGITS)
