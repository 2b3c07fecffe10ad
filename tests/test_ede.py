"""EDE's schedule and the callback that follows it."""

from irnet_tf import EDECallback, EDESchedule, set_ede
from irnet_tf.models import cifar_resnet
from irnet_tf.quantizers import EDESign, LibraPB
import larq as lq
import numpy as np
import pytest
import tensorflow as tf


def slopes_of(model):
    return {float(m.t) for m in model.submodules if isinstance(m, (EDESign, LibraPB))}


def test_schedule_is_the_papers():
    schedule = EDESchedule()
    assert schedule(0) == pytest.approx(0.1) and schedule(1) == pytest.approx(10)
    assert schedule(0.5) == pytest.approx(1)
    # T_min * 10 ** (i / N * log10(T_max / T_min)), as section 3.3 writes it
    for i in range(60):
        assert EDESchedule(1e-3, 10)(i / 60) == pytest.approx(1e-3 * 10 ** (i / 60 * 4))
    for bounds in ((0, 1), (-1, 1), (2, 1)):
        with pytest.raises(ValueError, match="t_min"):
            EDESchedule(*bounds)


def test_set_ede_reaches_every_quantizer():
    model = cifar_resnet(20)
    assert len([m for m in model.submodules if isinstance(m, (EDESign, LibraPB))]) == 36
    set_ede(model, 3.25)
    assert slopes_of(model) == {3.25}
    with pytest.raises(ValueError, match="above 0"):
        set_ede(model, 0)


def test_set_ede_takes_effect_in_a_traced_step(rng):
    quantizer = EDESign()
    x = tf.constant(rng.standard_normal(5))

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = quantizer(x)
        return tape.gradient(y, x)

    gradient()
    quantizer.t.assign(5.0)
    np.testing.assert_allclose(gradient(), 5 * (1 - np.tanh(5 * x.numpy()) ** 2), rtol=1e-12)


@pytest.mark.parametrize("epochs", [4, None])
def test_callback_follows_the_epochs_number_also_when_resumed(epochs):
    model, x, y = small()
    callbacks = [EDECallback(epochs)]
    whole = model.fit(x, y, epochs=4, verbose=0, callbacks=callbacks).history
    expected = [0.1 * 100 ** (i / 4) for i in range(4)]
    np.testing.assert_allclose(whole["ede_t"], expected, rtol=1e-12)
    np.testing.assert_allclose(whole["ede_k"], [max(1 / t, 1) for t in expected], rtol=1e-12)
    resumed = small()[0].fit(x, y, initial_epoch=2, epochs=4, verbose=0, callbacks=callbacks)
    np.testing.assert_allclose(resumed.history["ede_t"], expected[2:], rtol=1e-12)
    assert slopes_of(resumed.model) == {resumed.history["ede_t"][-1]}


# ---- Keras's own ways --------------------------------------------------------------------------


def small():
    """A network that is quick to train, with both of our quantizers, and what it is trained on."""
    x = tf.keras.layers.Input((6, 6, 3), name="images")
    y = lq.layers.QuantConv2D(
        4, 3, input_quantizer="ede_sign", kernel_quantizer="libra_pb", name="conv"
    )(x)
    y = tf.keras.layers.GlobalAveragePooling2D()(y)
    model = tf.keras.Model(x, tf.keras.layers.Dense(2, name="fc")(y))
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    return model, rng.standard_normal((8, 6, 6, 3)).astype("float32"), np.arange(8) % 2


@pytest.mark.parametrize("way", ["keras", "SavedModel", "export", "clone", "h5"])
def test_a_trained_network_goes_through_keras(tmp_path, way):
    """Saved, exported or cloned, it has the same outputs and, unless exported, can be trained."""
    model, x, y = small()
    model.fit(x, y, epochs=2, verbose=0, callbacks=[EDECallback()])
    expected = model.predict(x, verbose=0)
    if way == "export":
        model.export(str(tmp_path / "served"))
        served = tf.saved_model.load(str(tmp_path / "served"))
        np.testing.assert_allclose(served.serve(x), expected, atol=1e-6)
        return
    if way == "clone":
        again = tf.keras.models.clone_model(model)
        again.set_weights(model.get_weights())
        again.compile("sgd", model.loss)
    else:
        path = str(tmp_path / {"keras": "m.keras", "SavedModel": "folder", "h5": "m.h5"}[way])
        model.save(path)
        again = tf.keras.models.load_model(path)
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, atol=1e-6)
    history = again.fit(x, y, epochs=3, verbose=0, callbacks=[EDECallback()]).history
    np.testing.assert_allclose(history["ede_t"], [0.1 * 100 ** (i / 3) for i in range(3)])
    assert not np.array_equal(again.get_layer("conv").kernel, model.get_layer("conv").kernel)
