"""EDE's schedule and the callback that follows it."""

import subprocess
import sys

from irnet_tf import EDECallback, EDESchedule, set_ede
from irnet_tf.models import cifar_resnet
from irnet_tf.quantizers import EDESign, LibraPB
import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT


def sharpness(model):
    return {float(m.t) for m in model.submodules if isinstance(m, (EDESign, LibraPB))}


def test_schedule_is_the_papers():
    schedule = EDESchedule()
    assert schedule(0) == pytest.approx(0.1) and schedule(1) == pytest.approx(10)
    assert schedule(0.5) == pytest.approx(1)
    # T_min * 10 ** (i / N * log10(T_max / T_min)), as section 3.3 writes it
    for i in range(60):
        assert EDESchedule(1e-3, 10)(i / 60) == pytest.approx(1e-3 * 10 ** (i / 60 * 4))


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1), (2, 1)])
def test_schedule_refuses_bad_bounds(bounds):
    with pytest.raises(ValueError, match="t_min"):
        EDESchedule(*bounds)


def test_set_ede_reaches_every_quantizer():
    model = cifar_resnet(20)
    assert len([m for m in model.submodules if isinstance(m, (EDESign, LibraPB))]) == 36
    set_ede(model, 3.25)
    assert sharpness(model) == {3.25}
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


def test_callback_follows_the_epochs_number_also_when_resumed():
    model, x, y = small()
    whole = model.fit(x, y, epochs=4, verbose=0, callbacks=[EDECallback(4)]).history
    expected = [0.1 * 100 ** (i / 4) for i in range(4)]
    np.testing.assert_allclose(whole["ede_t"], expected, rtol=1e-12)
    np.testing.assert_allclose(whole["ede_k"], [max(1 / t, 1) for t in expected], rtol=1e-12)
    resumed = small()[0].fit(x, y, initial_epoch=2, epochs=4, verbose=0, callbacks=[EDECallback(4)])
    np.testing.assert_allclose(resumed.history["ede_t"], expected[2:], rtol=1e-12)
    assert sharpness(resumed.model) == {resumed.history["ede_t"][-1]}


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


def test_callback_without_arguments_takes_the_epochs_from_fit():
    model, x, y = small()
    history = model.fit(x, y, epochs=4, verbose=0, callbacks=[EDECallback()]).history
    np.testing.assert_allclose(history["ede_t"], [0.1 * 100 ** (i / 4) for i in range(4)])
    history = model.fit(
        x, y, initial_epoch=2, epochs=4, verbose=0, callbacks=[EDECallback()]
    ).history
    np.testing.assert_allclose(history["ede_t"], [0.1 * 100 ** (i / 4) for i in (2, 3)])


@pytest.mark.parametrize("way", ["keras", "SavedModel", "export", "clone", "h5"])
def test_a_trained_network_goes_through_keras(tmp_path, way):
    """Saved, exported or cloned, it gives what it gave, and (but for exports) can be trained on."""
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


def test_fit_on_several_devices_in_a_process_of_its_own():
    """MirroredStrategy on two virtual devices; t is the same on both."""
    script = """
import irnet_tf, numpy as np, tensorflow as tf
from tests.test_ede import small
from irnet_tf import EDECallback
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model, x, y = small()
history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[EDECallback()]).history
ts = {float(r) for m in model.submodules if hasattr(m, "t")
      for r in strategy.experimental_local_results(m.t)}
assert np.allclose(list(ts), [1.0]), ts
print("loss", history["loss"])
"""
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0 and "loss" in process.stdout, process.stderr[-3000:]
