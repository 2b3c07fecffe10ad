"""Details of layers: sign flips, gradient norms and histograms."""

import csv

import irnet_tf  # noqa: F401
from irnet_tf.training.details import LayerDetails
import larq as lq
import numpy as np
import pytest
import tensorflow as tf


def network(binary=True):
    quantizers = {"kernel_quantizer": "libra_pb", "input_quantizer": "ede_sign"} if binary else {}
    layers = [
        tf.keras.layers.Input((6,)),
        lq.layers.QuantDense(32, name="first", **quantizers),
        tf.keras.layers.BatchNormalization(),
        lq.layers.QuantDense(16, name="second", **quantizers),
        tf.keras.layers.Dense(3, name="fc"),
    ]
    model = tf.keras.Sequential(layers)
    model.compile(tf.keras.optimizers.SGD(0.5), tf.keras.losses.SparseCategoricalCrossentropy(True))
    return model


@pytest.fixture
def examples(rng):
    return rng.normal(size=(64, 6)).astype(np.float32), rng.integers(0, 3, 64)


def signs(model):
    """Signs of Libra-PB, from its formula."""
    kernels = {name: model.get_layer(name).get_weights()[0] for name in ("first", "second")}
    return {name: w >= w.mean(0) for name, w in kernels.items()}


def rows(folder):
    return list(csv.DictReader((folder / "details.csv").read_text().splitlines()))


def test_flips_and_gradients_by_layer(tmp_path, examples):
    model = network()
    seen = [signs(model)]
    note = tf.keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(signs(model)))
    model.fit(*examples, epochs=3, verbose=0, callbacks=[LayerDetails(tmp_path, examples), note])
    found = rows(tmp_path)
    assert [(int(r["epoch"]), r["layer"]) for r in found] == [
        (epoch, name) for epoch in (1, 2, 3) for name in ("first", "second")
    ]
    for row in found:
        epoch, name = int(row["epoch"]), row["layer"]
        flips = np.mean(seen[epoch][name] != seen[epoch - 1][name])
        assert float(row["flip_ratio"]) == pytest.approx(flips)
    assert any(float(row["flip_ratio"]) > 0 for row in found)
    with tf.GradientTape() as tape:
        loss = model.loss(examples[1], model(examples[0]))
    gradient = tape.gradient(loss, model.get_layer("second").kernel)
    assert float(found[-1]["gradient_norm"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
    [path] = (tmp_path / "tensorboard").iterdir()
    tags = {v.tag for e in tf.compat.v1.train.summary_iterator(str(path)) for v in e.summary.value}
    assert {"first/flip_ratio", "second/latent", "second/gradient_norm"} <= tags


def test_logging_changes_nothing(tmp_path, examples):
    ends = []
    for callbacks in ([], [LayerDetails(tmp_path, examples)]):
        tf.keras.utils.set_random_seed(1)
        model = network()
        model.fit(*examples, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
        ends.append(model.get_weights())
    for one, other in zip(*ends):
        np.testing.assert_array_equal(one, other)


def test_a_resumed_run_has_the_same_details(tmp_path, examples):
    def fit(model, folder, first, last):
        model.fit(
            *examples,
            initial_epoch=first,
            epochs=last,
            shuffle=False,
            verbose=0,
            callbacks=[LayerDetails(folder, examples)],
        )

    model = network()
    start = model.get_weights()
    fit(model, tmp_path / "whole", 0, 3)
    model.set_weights(start)
    fit(model, tmp_path / "parts", 0, 2)
    middle = model.get_weights()
    for _ in range(2):  # an epoch that a restart trains once more
        model.set_weights(middle)
        fit(model, tmp_path / "parts", 2, 3)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_network_without_binary_weights_is_rejected(tmp_path, examples):
    with pytest.raises(ValueError, match="no layer with binary weights"):
        network(binary=False).fit(*examples, verbose=0, callbacks=[LayerDetails(tmp_path)])
