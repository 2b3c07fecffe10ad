"""EDE's schedule and the callback that follows it."""

from irnet_tf import EDECallback, EDESchedule, set_ede
from irnet_tf.models import cifar_resnet
from irnet_tf.quantizers import EDESign, LibraPB
import numpy as np
import pytest
import tensorflow as tf


def sharpness(model):
    return {float(m.t) for m in model.submodules if isinstance(m, (EDESign, LibraPB))}


def tiny_model():
    model = cifar_resnet(20, input_shape=(8, 8, 3))
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


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


def test_callback_follows_the_epochs_number_also_when_resumed(rng):
    x = rng.standard_normal((4, 8, 8, 3)).astype("float32")
    y = np.arange(4)
    model = tiny_model()
    whole = model.fit(x, y, epochs=4, verbose=0, callbacks=[EDECallback(4)]).history
    expected = [0.1 * 100 ** (i / 4) for i in range(4)]
    np.testing.assert_allclose(whole["ede_t"], expected, rtol=1e-12)
    np.testing.assert_allclose(whole["ede_k"], [max(1 / t, 1) for t in expected], rtol=1e-12)
    resumed = tiny_model().fit(
        x, y, initial_epoch=2, epochs=4, verbose=0, callbacks=[EDECallback(4)]
    )
    np.testing.assert_allclose(resumed.history["ede_t"], expected[2:], rtol=1e-12)
    assert sharpness(resumed.model) == {resumed.history["ede_t"][-1]}
