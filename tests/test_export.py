"""Larq Compute Engine models against their networks."""

from irnet_tf import data, export
from irnet_tf.export import lce, plan
from irnet_tf.models import cifar_resnet, resnet, vgg_small
from irnet_tf.preprocessing import DIGITS
import larq as lq
import numpy as np
import pytest
import tensorflow as tf

Interpreter = pytest.importorskip("larq_compute_engine.tflite.python.interpreter").Interpreter

# At 96 pixels a side, 64 images take seconds.
IMAGENET = {"input_shape": (96, 96, 3)}
# Builder, arguments and number of 1-bit convolutions of each network.
ONE_BIT = {
    "resnet20_bireal_1w1a": (cifar_resnet, {"depth": 20, "structure": "bireal"}, 18),
    "resnet20_normal_1w1a": (cifar_resnet, {"depth": 20, "structure": "normal"}, 18),
    "vgg_small_1w1a": (vgg_small, {}, 5),
    "resnet18_normal_1w1a": (resnet, {"depth": 18, "stem": "cifar", "structure": "normal"}, 16),
    "imagenet_resnet18_bireal_1w1a": (resnet, {"depth": 18, **IMAGENET}, 16),
    "imagenet_resnet34_bireal_1w1a": (resnet, {"depth": 34, **IMAGENET}, 32),
}
_32A = {"structure": "normal", "activation_bits": 32}
FLOAT_INPUTS = {
    "resnet20_normal_1w32a": (cifar_resnet, {"depth": 20, **_32A}, 18),
    "imagenet_resnet18_normal_1w32a": (resnet, {"depth": 18, **_32A, **IMAGENET}, 16),
    "imagenet_resnet34_normal_1w32a": (resnet, {"depth": 34, **_32A, **IMAGENET}, 32),
}


def batch_norms(model):
    return [x for x in model.layers if isinstance(x, tf.keras.layers.BatchNormalization)]


def calibrated(model, images):
    """The model with batch-norm statistics of the images."""
    for norm in batch_norms(model):
        norm.momentum = 0.0
    model(images, training=True)
    return model


def without_rounding(model, seed=0):
    """The model with small multiples of powers of two as weights, as in `coarse_images`.

    Sums are exact, many activations are exactly zero, and batch norms have any sign.
    """
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, lq.layers.QuantConv2D) and layer.kernel_quantizer is None:
            layer.set_weights([rng.integers(-2, 3, layer.kernel.shape) / 4])
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            summed = layer.input.node.layer
            if isinstance(summed, tf.keras.layers.MaxPool2D):
                summed = summed.input.node.layer
            inputs = np.prod(summed.kernel.shape[:3]) if hasattr(summed, "kernel") else 1
            spread = 2.0 ** -np.round(np.log2(np.sqrt(inputs)))
            channels = layer.gamma.shape
            gamma = spread * rng.choice([-1, -0.5, 0, 0.5, 1, 1, 1.5], channels)
            beta, mean = rng.integers(-8, 9, channels) / 16, rng.integers(-8, 9, channels)
            # So that 1 / sqrt(variance + epsilon) is 1.
            variance = np.full(channels, np.float32(1) - np.float32(layer.epsilon))
            layer.set_weights([gamma, beta, mean, variance])
    return model


def coarse_images(model, count=64, seed=0):
    shape = (count, *model.input_shape[1:])
    return (np.random.default_rng(seed).integers(-8, 9, shape) / 4).astype(np.float32)


def noise(model, count=64, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small(kernel_quantizer="libra_pb", input_quantizer="ede_sign", side=6, channels=32, **conv):
    """A network of one 1-bit convolution."""
    inputs = tf.keras.Input((side, side, channels))
    x = lq.layers.QuantConv2D(
        **{"filters": 8, "kernel_size": 3, "padding": "same", "use_bias": False, **conv},
        kernel_quantizer=kernel_quantizer,
        input_quantizer=input_quantizer,
        name="binary",
    )(inputs)
    return tf.keras.Model(inputs, tf.keras.layers.GlobalAveragePooling2D()(x), name="small")


def difference(model, file, images, normalised=None):
    expected = model.predict(images if normalised is None else normalised, 16, verbose=0)
    return np.abs(Interpreter(file).predict(images) - expected).max()


def assert_weights_are_bits(file, model):
    """One bit per binary weight, four bytes per other number, and a small overhead."""
    quantized = [x for x in model.layers if getattr(x, "kernel_quantizer", None)]
    weights = sum(int(np.prod(layer.kernel.shape)) for layer in quantized)
    in_bits = weights / 8 + 4 * (model.count_params() - weights)
    assert weights / 8 < len(file) < 1.03 * in_bits + 16_000


@pytest.mark.parametrize("name", ONE_BIT)
def test_every_1_bit_convolution_becomes_a_1_bit_operator_and_logits_are_equal(name):
    builder, arguments, convolutions = ONE_BIT[name]
    model = without_rounding(builder(**arguments))
    images = coarse_images(model, 8)
    file = export.to_lce(model)
    operators = export.operators(file)
    assert operators["LceBconv2d"] == convolutions
    # The first convolution and, in ResNet-18 and 34, three shortcuts.
    assert operators["CONV_2D"] == (4 if builder is resnet else 1)
    assert_weights_are_bits(file, model)
    assert np.ptp(model.predict(images, verbose=0), axis=0).min() > 0.01
    assert export.compare(model, file, images)["equal"]


@pytest.mark.parametrize("name", FLOAT_INPUTS)
def test_1_bit_weights_with_float_inputs_are_packed_and_stay_float(name):
    builder, arguments, convolutions = FLOAT_INPUTS[name]
    model = builder(**arguments)
    images = noise(model, 8)
    calibrated(model, images)
    file = export.to_lce(model)
    operators = export.operators(file)
    assert operators["LceBconv2d"] == 0
    assert operators["LceDequantize"] == convolutions
    assert_weights_are_bits(file, model)
    assert difference(model, file, images) <= 1e-4


def test_the_trained_digits_network_agrees_on_every_test_image():
    import zoo

    model = zoo.load("digits/resnet20_bireal_1w1a", weights="pretrained")
    digits = data.load("digits")
    batches = data.evaluation_batches(digits.test, batch_size=64, preprocessing=DIGITS)
    images = np.concatenate([x for x, _ in batches.as_numpy_iterator()])
    assert len(images) == 360
    expected = model.predict(images, verbose=0).argmax(1)
    file = export.to_lce(model)
    np.testing.assert_array_equal(Interpreter(file).predict(images).argmax(1), expected)
    assert export.compare(model, file, images)["equal"]


# ---------------------------------------------------------------- rewriting


def test_pools_move_behind_thresholds_and_hardtanh_before_signs_is_dropped():
    model = without_rounding(vgg_small())
    for norm in batch_norms(model):
        assert (norm.gamma.numpy() < 0).any() and (norm.gamma.numpy() == 0).any()
    operators = export.operators(export.to_lce(model))
    # Only signs and pools of bits remain between the convolutions; the last batch norm is behind
    # a pool and becomes MUL and ADD.
    assert operators == {
        "ADD": 1,
        "CONV_2D": 1,
        "LceQuantize": 5,
        "LceBconv2d": 5,
        "LceBMaxPool2d": 2,
        "MAX_POOL_2D": 1,
        "MUL": 1,
        "RESHAPE": 1,
        "FULLY_CONNECTED": 1,
    }


def test_hardtanh_is_dropped_unless_a_shortcut_reads_it():
    normal, bireal = (
        export.to_lce(cifar_resnet(20, structure=structure)) for structure in ("normal", "bireal")
    )
    # The others are fused with ADD.
    for file, shortcuts in ((normal, 9), (bireal, 18)):
        assert "RELU_N1_TO_1" not in export.operators(file)
        assert export.operators(file)["ADD"] == shortcuts


def test_the_model_is_not_changed():
    model = without_rounding(vgg_small())
    images = coarse_images(model, 2)
    before = model.get_weights(), model(images).numpy()
    export.compare(model, export.to_lce(model), images)
    for old, new in zip(before[0], model.get_weights()):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model(images), before[1])
    assert model.get_layer("conv1").kernel_quantizer is not None


@pytest.mark.parametrize("policy", ["float64", "mixed_float16"])
def test_networks_of_other_precisions_are_exported_in_float32(policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    model = small()
    tf.keras.mixed_precision.set_global_policy("float32")
    images = noise(model)
    file = export.to_lce(model)
    assert export.compare(model, file, images)["equal"]


# ---------------------------------------------------------------- bytes in


def test_uint8_input_has_the_normalisation_built_in():
    model = cifar_resnet(20, num_classes=7, input_shape=(24, 16, 3))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 24, 16, 3), np.uint8)
    images = ((pixels / 255 - mean) / std).astype(np.float32)
    calibrated(model, images)
    file = export.to_lce(model, uint8_input=True, mean=mean, std=std)
    interpreter = Interpreter(file)
    assert interpreter.input_types == [np.uint8]
    assert interpreter.input_shapes == [(1, 24, 16, 3)]
    assert interpreter.output_shapes == [(1, 7)]
    seen = export.compare(model, file, pixels, mean=mean, std=std)
    assert seen["equal"] and seen["images"] == 64


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"uint8_input": True}, "needs a normalisation"),
        ({"mean": 0.5, "std": 0.5}, "mean and std need uint8_input=True"),
        (
            {"uint8_input": True, "mean": (0.5, 0.5), "std": 1},
            "mean must be one finite number or 32",
        ),
        ({"uint8_input": True, "mean": 0.5, "std": 0}, "std must be above 0, got 0"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        export.to_lce(small(), **arguments)


# ---------------------------------------------------------------- comparing


def test_bits_that_rounding_flips_are_found_and_explained():
    model = cifar_resnet(20)
    images = noise(model)
    calibrated(model, images)
    file = export.to_lce(model)
    seen = export.compare(model, file, images)
    direct = np.abs(Interpreter(file).predict(images) - model.predict(images, 16, verbose=0))
    assert seen["largest_difference"] == pytest.approx(direct.max(), rel=1e-4)
    assert seen["equal"]
    assert seen["largest_difference_given_bits"] <= 1e-4
    assert (seen["largest_difference"] > 1e-4) == (seen["traced_images"] > 0)
    assert (seen["largest_flipped"] > 0) <= (seen["flipped_bits"] > 0)


def test_a_file_of_other_weights_is_not_equal():
    inputs = tf.keras.Input((8, 8, 32))
    x = inputs
    for i in (1, 2):
        x = lq.layers.QuantConv2D(
            32, 3, padding="same", use_bias=False, kernel_quantizer="libra_pb",
            input_quantizer="ede_sign", name=f"conv{i}",
        )(x)  # fmt: skip
        x = tf.keras.layers.BatchNormalization(name=f"norm{i}")(x)
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(10, name="linear")(x))
    images = noise(model, 4)
    calibrated(model, images)
    file = export.to_lce(model)
    assert export.compare(model, file, images)["equal"]

    norm, linear = model.get_layer("norm1"), model.get_layer("linear")
    for variable, change in ((norm.beta, 0.1), (linear.bias, 0.001), (linear.bias, np.nan)):
        before = variable.numpy()
        variable.assign(before + change)
        if np.isfinite(change):
            assert not export.compare(model, file, images)["equal"]
        else:
            with pytest.raises(ValueError, match="'linear' has weights that are not finite"):
                export.compare(model, file, images)
        variable.assign(before)

    kernel = model.get_layer("conv2").kernel.latent_variable
    kernel.assign(-kernel)
    with pytest.raises(ValueError, match="made from another network"):
        export.compare(model, file, images)


def test_images_that_do_not_fit_are_rejected():
    model = small()
    with pytest.raises(ValueError, match=r"images must be float32 \[n, 6, 6, 32\], .* got float64"):
        export.compare(model, export.to_lce(model), np.zeros((1, 6, 6, 32)))


# ---------------------------------------------------------------- errors


def two_outputs():
    inputs = tf.keras.Input((8, 8, 3))
    return tf.keras.Model(inputs, [inputs, inputs])


def shared_layer():
    inputs = tf.keras.Input((8, 8, 3))
    layer = tf.keras.layers.Dense(3, name="twice")
    return tf.keras.Model(inputs, layer(layer(inputs)))


def foreign_layer():
    inputs = tf.keras.Input((8, 8, 3))
    return tf.keras.Model(inputs, tf.keras.layers.Lambda(tf.sin, name="wave")(inputs))


def not_finite():
    model = small()
    model.layers[1].set_weights([np.full((3, 3, 32, 8), np.nan)])
    return model


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: cifar_resnet(20, input_shape=(None, None, 3)), "'images' .* input_shape="),
        (lambda: cifar_resnet(20, padding="symmetric"), r"'layer2.0.conv1' .* padding=\"same\""),
        (lambda: resnet(18, padding="symmetric"), r"'conv1' .* padding=\"same\""),
        (lambda: cifar_resnet(20, **_32A, padding="symmetric"), r"'layer2.0.conv1' .* padding="),
        (lambda: cifar_resnet(20, input_shape=(8, 8, 3)), "'layer3.0.conv2' gets 2x2 .* larger"),
        (foreign_layer, "'wave' is a Lambda"),
        (shared_layer, "'twice' is used more than once"),
        (two_outputs, "1 inputs and 2 outputs"),
        (lambda: tf.keras.Sequential([tf.keras.layers.Dense(2)]), "not a functional"),
        (
            lambda: small(input_quantizer="ste_heaviside"),
            "'binary' has an input quantizer",
        ),
        (
            lambda: small(kernel_quantizer="ste_tern"),
            "'binary' has quantized weights",
        ),
        (lambda: small(channels=64, groups=2), "'binary' .* groups=2"),
        (not_finite, "'binary' has weights that are not finite"),
    ],
)
def test_what_cannot_be_converted_is_rejected_before_conversion(make, message, monkeypatch):
    model = make()
    monkeypatch.setattr(lce, "convert", lambda *_: pytest.fail("converted"))
    with pytest.raises(ValueError, match=message):
        export.to_lce(model)


def test_larq_computes_images_smaller_than_a_kernel_wrongly(monkeypatch):
    """Reason for an error of `to_lce`. If this fails, Larq has fixed it."""
    model = small(side=3)
    assert difference(model, export.to_lce(model), noise(model)) <= 1e-4
    too_small = small(side=2)
    monkeypatch.setattr(plan, "check_span", lambda *_: None)
    file = export.to_lce(too_small)
    assert difference(too_small, file, noise(too_small)) > 0.1
