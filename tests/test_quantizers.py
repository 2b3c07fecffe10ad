"""Libra-PB and EDE's sign: the paper's formulas, in NumPy, are the truth."""

from irnet_tf import EDESign, LibraPB, ede_sign, libra_pb, set_ede
import larq as lq
import numpy as np
import pytest
import tensorflow as tf


def numpy_libra_pb(w):
    """Equations of the paper, channel by channel, for kernels with channels last."""
    columns = w.reshape(-1, w.shape[-1])
    out = np.empty_like(columns)
    for c in range(columns.shape[1]):
        w_hat = columns[:, c] - columns[:, c].mean()
        w_std = w_hat / w_hat.std(ddof=1)
        s = np.round(np.log2(np.abs(w_std).mean()))
        out[:, c] = np.where(w_std >= 0, 1.0, -1.0) * 2.0**s
    return out.reshape(w.shape)


def heavy_tailed(rng, shape):
    """Kernels whose channels need different powers of two."""
    w = rng.standard_normal(shape)
    power = np.linspace(1, 6, shape[-1])
    return np.sign(w) * np.abs(w) ** power + 0.3


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (1, 1, 64, 4), (40, 7), (5, 2, 3)])
def test_libra_pb_is_the_papers_formula(rng, shape):
    w = heavy_tailed(rng, shape)
    np.testing.assert_array_equal(libra_pb(w), numpy_libra_pb(w))
    np.testing.assert_array_equal(LibraPB()(w), numpy_libra_pb(w))


@pytest.mark.parametrize("t", [1e-3, 0.1, 0.4, 1.0, 3.7, 10.0])
def test_ede_gradient_is_the_closed_form(rng, t):
    x = tf.constant(np.concatenate([3 * rng.standard_normal(1000), [0.0, -0.0]]))
    dy = rng.standard_normal(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ede_sign(x, t)
    expected = dy * max(1 / t, 1) * t * (1 - np.tanh(t * x.numpy()) ** 2)
    np.testing.assert_allclose(tape.gradient(y, x, dy), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(y, np.where(x.numpy() >= 0, 1.0, -1.0))


def test_libra_pb_gradient_flows_through_mean_and_deviation(rng):
    """Against the chain rule through numerically differentiated balancing and scaling."""
    w = heavy_tailed(rng, (12, 3))
    dy = rng.standard_normal(w.shape)
    t = 0.7

    def standardised(w):
        w_hat = w - w.mean(0)
        return w_hat / w_hat.std(0, ddof=1)

    scale = np.abs(numpy_libra_pb(w))
    upstream = dy * scale * max(1 / t, 1) * t * (1 - np.tanh(t * standardised(w)) ** 2)
    expected = np.empty_like(w)
    for i in np.ndindex(*w.shape):
        step = np.zeros_like(w)
        step[i] = 1e-6
        derivative = (standardised(w + step) - standardised(w - step)) / 2e-6
        expected[i] = (upstream * derivative).sum()
    variable = tf.Variable(w)
    with tf.GradientTape() as tape:
        y = libra_pb(variable, t)
    np.testing.assert_allclose(tape.gradient(y, variable, dy), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e-30, 3e4])
@pytest.mark.parametrize("shape", [(3, 3, 200, 2), (1, 5)])
def test_channels_without_information_stay_finite(dtype, value, shape):
    w = tf.Variable(np.full(shape, value, dtype))
    with tf.GradientTape() as tape:
        y = libra_pb(w, 0.1)
    gradient = tape.gradient(y, w, tf.cast(np.arange(np.prod(shape)).reshape(shape), dtype))
    np.testing.assert_array_equal(y, np.ones(shape, dtype))
    assert np.isfinite(gradient.numpy().astype("float64")).all()


def test_half_precision_is_computed_in_float32(rng):
    w = rng.standard_normal((3, 3, 64, 32)).astype("float16")
    q = libra_pb(w)
    assert q.dtype == tf.float16
    np.testing.assert_array_equal(q, libra_pb(w.astype("float32")).numpy())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_layers_work_in_mixed_precision(rng, policy):
    layer = lq.layers.QuantConv2D(
        8, 3, kernel_quantizer="libra_pb", input_quantizer="ede_sign", dtype=policy
    )
    x = tf.constant(rng.standard_normal((2, 8, 8, 4)), tf.float32)
    with tf.GradientTape() as tape:
        y = layer(x)
    assert y.dtype == tf.as_dtype(policy.removeprefix("mixed_"))
    gradient = tape.gradient(y, layer.trainable_variables)[0]
    assert gradient.dtype == tf.float32
    assert np.isfinite(gradient.numpy()).all() and np.abs(gradient.numpy()).max() > 0


def quantized(variable):
    with lq.context.quantized_scope(True):
        return variable.read_value().numpy()


def by_filter(w, filters):
    """The paper's formula for each filter by itself; `filters` gives where it is in the kernel."""
    out = np.full(w.shape, np.nan, w.dtype)
    for where in filters:
        out[where] = numpy_libra_pb(w[where].reshape(-1, 1)).reshape(w[where].shape)
    return out


def last(w):
    return [(..., c) for c in range(w.shape[-1])]


def last_two(w):
    return [(..., i, j) for i in range(w.shape[-2]) for j in range(w.shape[-1])]


def last_but_one(w):
    return [(..., c, slice(None)) for c in range(w.shape[-2])]


LAYERS = lq.layers
KERNELS = [
    # layer, sides of its input, from each kernel to its filters
    (LAYERS.QuantDense, (4,), (0,), {"kernel": last}),
    (LAYERS.QuantConv2D, (4, 3), (6, 6), {"kernel": last}),
    (LAYERS.QuantConv2DTranspose, (4, 3), (6, 6), {"kernel": last_but_one}),
    (LAYERS.QuantDepthwiseConv2D, (3,), (6, 6), {"depthwise": last_two}),
    (LAYERS.QuantSeparableConv2D, (4, 3), (6, 6), {"depthwise": last_two, "pointwise": last}),
]


@pytest.mark.parametrize("kind, arguments, sides, kernels", KERNELS, ids=lambda x: "")
def test_the_alias_takes_each_layers_own_output_channels(rng, kind, arguments, sides, kernels):
    """By the definition, filter by filter, whichever axes of the kernel index them; within the
    layer and when its weights are read from without."""
    multiplier = {"depth_multiplier": 2} if "depthwise" in kernels else {}
    quantizers = {f"{name}_quantizer": "libra_pb" for name in kernels}
    layer = kind(*arguments, **quantizers, **multiplier, use_bias=False)
    x = rng.standard_normal((2, *(side for side in sides if side), 5)).astype("float32")
    layer(x)
    layer.set_weights([heavy_tailed(rng, w.shape) for w in layer.get_weights()])
    expected = [by_filter(w, of(w)) for w, of in zip(layer.get_weights(), kernels.values())]
    assert len(layer.weights) == len(expected)
    for variable, value in zip(layer.weights, expected):
        np.testing.assert_array_equal(quantized(variable), value)
    plain = kind(*arguments, **multiplier, use_bias=False)
    plain.build(x.shape)
    plain.set_weights(expected)
    np.testing.assert_array_equal(layer(x), plain(x))


def test_an_error_within_a_layer_does_not_let_latent_weights_be_read_as_binary(rng):
    layer = lq.layers.QuantConv2D(4, 3, kernel_quantizer="libra_pb", use_bias=False)
    layer.build((None, 6, 6, 3))
    latent = layer.get_weights()[0]
    with pytest.raises(ValueError, match="Negative dimension"):
        layer(tf.keras.layers.Input((2, 2, 3)))
    np.testing.assert_array_equal(layer.get_weights()[0], latent)


@pytest.mark.parametrize("axes, filters", [(2, last_two), ((2,), last_but_one), ((-1,), last)])
def test_output_channels_can_be_named(rng, axes, filters):
    w = heavy_tailed(rng, (3, 3, 5, 2))
    np.testing.assert_array_equal(LibraPB(channel_axes=axes)(w), by_filter(w, filters(w)))
    np.testing.assert_array_equal(libra_pb(w, channel_axes=axes), by_filter(w, filters(w)))


def test_configuration_round_trip():
    quantizer = LibraPB(t=0.3, channel_axes=2)
    quantizer.t.assign(0.7)
    copy = LibraPB.from_config(quantizer.get_config())
    assert float(copy.t) == 0.7 and copy.channel_axes == 2
    named = LibraPB.from_config(LibraPB(channel_axes=(2,)).get_config())
    assert named.channel_axes == (2,) and LibraPB().get_config()["channel_axes"] is None
    for alias, kind in (("libra_pb", LibraPB), ("ede_sign", EDESign)):
        again = lq.quantizers.get(lq.quantizers.serialize(lq.quantizers.get(alias)))
        assert type(again) is kind and again.precision == 1


def test_t_is_no_weight_and_training_leaves_it_alone(rng):
    layer = lq.layers.QuantDense(4, kernel_quantizer="libra_pb", input_quantizer="ede_sign")
    model = tf.keras.Sequential([layer])
    model.compile("sgd", "mse")
    model.fit(rng.standard_normal((8, 5)), rng.standard_normal((8, 4)), verbose=0)
    set_ede(model, 2.5)
    model.fit(rng.standard_normal((8, 5)), rng.standard_normal((8, 4)), verbose=0)
    assert [w.shape for w in model.weights] == [(5, 4), (4,)]
    assert float(layer.kernel_quantizer.t) == float(layer.input_quantizer.t) == 2.5


def test_flip_ratio_counts_signs():
    quantizer = LibraPB(metrics=["flip_ratio"])
    w = np.array([[-3.0], [-1.0], [1.0], [3.0]], "float32")
    quantizer(w)
    assert float(quantizer.flip_ratio.result()) == 0
    quantizer(w * [[1], [-1], [-1], [1]])
    assert float(quantizer.flip_ratio.result()) == 0.5
    with lq.context.metrics_scope(["flip_ratio"]):
        layer = lq.layers.QuantDense(2, kernel_quantizer="libra_pb")
        layer(np.ones((1, 3), "float32"))
    assert [m.name for m in layer.metrics] == ["flip_ratio/" + layer.kernel_quantizer.name]


def test_kernels_with_different_layouts_share_no_quantizer(rng):
    shared = LibraPB()
    x = rng.standard_normal((1, 6, 6, 3)).astype("float32")
    for _ in range(2):
        lq.layers.QuantConv2D(4, 3, kernel_quantizer=shared)(x)
    with pytest.raises(ValueError, match="one quantizer per kernel"):
        lq.layers.QuantDepthwiseConv2D(3, depthwise_quantizer=shared)(x)
    quantizers = dict.fromkeys(("depthwise_quantizer", "pointwise_quantizer"), LibraPB())
    with pytest.raises(ValueError, match="one quantizer per kernel"):
        lq.layers.QuantSeparableConv2D(4, 3, **quantizers)(x)
    assert not lq.context.should_quantize()


@pytest.mark.parametrize(
    ("name", "value"),
    [("t", t) for t in (0, -1.0, float("nan"), float("inf"))]
    + [("channel_axes", axes) for axes in (0, -1, 10**10, (), "last", 1.5, True, (1.5,))],
)
def test_invalid_arguments_are_rejected(name, value):
    with pytest.raises(ValueError, match=f"{name}.* must be"):
        LibraPB(**{name: value})


@pytest.mark.parametrize("axes", [4, (4,), (-5,), (0, 1, 2, 3)])
def test_kernels_without_these_axes_are_rejected(axes):
    with pytest.raises(ValueError, match="a kernel of known shape"):
        LibraPB(channel_axes=axes)(np.ones((3, 3, 4, 5)))
    with pytest.raises(ValueError, match="a kernel of known shape"):
        tf.function(libra_pb).get_concrete_function(tf.TensorSpec([None, 8, 8, 3]))
