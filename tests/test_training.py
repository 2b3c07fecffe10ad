"""What a training computes: schedule, step, loss; and that `fit` computes the same."""

import random

from irnet_tf import training
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import RECIPE, tiny_network, tiny_train

# ---- recipes -----------------------------------------------------------------------------------


def test_cosine_rate():
    rate = RECIPE.replace(epochs=4, learning_rate=0.1).learning_rate_schedule(25)
    for step in (0, 1, 50, 99):
        expected = 0.05 * (1 + np.cos(np.pi * step / 100))
        assert float(rate(step)) == pytest.approx(expected, abs=1e-7)


def test_imagenet_rate_is_the_published_one():
    """0.2 to 0.8 in 2,500 of 62,500 steps, a tenth at 18,750, 37,500 and 56,250."""
    import zoo

    recipe = zoo.info("imagenet/resnet18_bireal_1w1a").recipe
    rate = recipe.learning_rate_schedule(625)
    published = {
        0: 0.2,
        1250: 0.5,
        2500: 0.8,
        18_749: 0.8,
        18_750: 0.08,
        37_500: 8e-3,
        56_250: 8e-4,
    }
    for step, expected in published.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-4), step
    half = recipe.replace(batch_size=1024)
    assert (half.learning_rate, half.warmup_start_lr) == pytest.approx((0.4, 0.1))
    assert recipe.replace(batch_size=1024, learning_rate=0.3).learning_rate == 0.3


# ---- the step ----------------------------------------------------------------------------------


def batch_of(n=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 8, 8, 3)), np.arange(n) % 3


def sgd_by_hand(model, recipe, loss, steps=2):
    """In NumPy, with gradients from a tape: momentum and L2 decay at a constant rate."""
    variables = model.trainable_variables
    weights = [v.numpy() for v in variables]
    momenta = [np.zeros_like(w) for w in weights]
    for _ in range(steps):
        with tf.GradientTape() as tape:
            value = loss()
        gradients = [g.numpy() for g in tape.gradient(value, variables)]
        decayed = [g + recipe.weight_decay * w for g, w in zip(gradients, weights)]
        momenta = [recipe.momentum * m + d for m, d in zip(momenta, decayed)]
        weights = [w - recipe.learning_rate * m for w, m in zip(weights, momenta)]
        for variable, value in zip(variables, weights):
            variable.assign(value)
    return weights


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("regularizer", [None, "l2"])
def test_fit_is_sgd_with_momentum_and_l2_decay_of_every_parameter(
    float64, probabilities, regularizer
):
    """By hand, of logits or of probabilities, with a regularizer of the network's own or none."""
    recipe = RECIPE.replace(weight_decay=0.01, lr_schedule="step")
    model = tiny_network(probabilities, regularizer)
    images, labels = batch_of()
    start = model.get_weights()

    def loss():
        outputs = model(images, training=True)
        if not probabilities:
            outputs = tf.nn.softmax(outputs)
        chosen = tf.gather(outputs, labels, batch_dims=1)
        penalty = 0.01 * tf.reduce_sum(model.get_layer("conv1").kernel ** 2)  # Keras's "l2"
        return -tf.reduce_mean(tf.math.log(chosen)) + (penalty if regularizer else 0.0)

    expected = sgd_by_hand(model, recipe, loss)
    model.set_weights(start)
    training.compile_model(model, recipe, steps_per_epoch=10)
    model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for variable, value in zip(model.trainable_variables, expected):
        np.testing.assert_allclose(variable, value, rtol=1e-6, atol=1e-9, err_msg=variable.name)


@pytest.mark.parametrize("kind", ["keras", "h5", "saved_model"])
def test_a_compiled_model_that_keras_saved_can_be_loaded(tmp_path, kind):
    recipe = RECIPE.replace(classifier_lr_scale=0.5)
    model = training.compile_model(tiny_network(), recipe, 3)
    images, labels = batch_of()
    model.fit(images, labels, verbose=0)
    path = tmp_path / ("model" if kind == "saved_model" else f"model.{kind}")
    model.save(path)
    again = tf.keras.models.load_model(path)
    np.testing.assert_array_equal(again(images), model(images))
    assert again.optimizer.l2 == recipe.weight_decay
    assert again.optimizer.lr_scales == {"fc/kernel:0": 0.5, "fc/bias:0": 0.5}


def test_learning_rate_multipliers_of_single_variables():
    a, b = tf.Variable([1.0], name="a"), tf.Variable([2.0], name="b")
    optimizer = training.L2SGD(0.5, l2=0.1, lr_scales={"b:0": 0.2})
    optimizer.apply_gradients([(tf.constant([1.0]), a), (tf.constant([1.0]), b)])
    assert a.numpy() == pytest.approx(1 - 0.5 * (1 + 0.1 * 1))
    assert b.numpy() == pytest.approx(2 - 0.5 * 0.2 * (1 + 0.1 * 2))


def test_metrics_are_means_over_all_images():
    model = training.compile_model(tiny_network(), RECIPE, 3)
    images, labels = batch_of(11)
    found = model.evaluate(
        images.astype("float32"), labels, batch_size=4, verbose=0, return_dict=True
    )
    logits = model(images, training=False).numpy().astype("float64")
    chosen = logits[np.arange(11), labels] - np.log(np.exp(logits).sum(-1))
    accuracy = np.mean(np.argmax(logits, -1) == labels)
    expected = {"loss": -chosen.mean(), "accuracy": accuracy, "top5": 1.0}
    assert found == pytest.approx(expected, rel=1e-6)


def test_mixed_precision_trains_float32_weights(tmp_path):
    models = []

    def build():
        models.append(tiny_network())
        return models[-1]

    recipe = RECIPE.replace(epochs=1, mixed_precision="mixed_bfloat16")
    assert 0 < tiny_train(tmp_path, recipe, build)["final"]["loss"] < 10
    assert {w.dtype for w in models[0].trainable_variables} == {tf.float32}
    assert models[0].get_layer("conv2").compute_dtype == "bfloat16"
    moved = models[0].get_layer("conv1").kernel.numpy() - tiny_network().get_layer("conv1").kernel
    assert np.abs(moved).max() > 1e-3


def test_seeds_precision_and_determinism_are_given_back():
    def draw():
        return random.random(), np.random.rand(), float(tf.random.uniform([]))

    tf.keras.utils.set_random_seed(5)
    random.setstate(random.Random(1).getstate())
    expected = draw(), draw()
    tf.keras.utils.set_random_seed(5)
    random.setstate(random.Random(1).getstate())
    first = draw()
    with training.global_state(3, "mixed_bfloat16"):
        assert tf.keras.mixed_precision.global_policy().name == "mixed_bfloat16"
        inside = draw()
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    second = draw()
    assert (first[:2], second[:2]) == (expected[0][:2], expected[1][:2])
    assert inside not in expected
    with pytest.raises(ValueError, match="mixed_float8"), training.global_state(3, "mixed_float8"):
        pass
