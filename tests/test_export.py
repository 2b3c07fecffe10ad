"""Exported files of both formats against their networks."""

import functools

from irnet_tf import data, export
from irnet_tf.export import openvino as openvino_export
from irnet_tf.export.openvino import core
from irnet_tf.model_config import ModelConfig, set_model_config
from irnet_tf.models import cifar_resnet, resnet, vgg_small
from irnet_tf.preprocessing import CIFAR10, DIGITS
import larq as lq
import numpy as np
import pytest
import tensorflow as tf
import zoo

Interpreter = pytest.importorskip("larq_compute_engine.tflite.python.interpreter").Interpreter
ov = pytest.importorskip("openvino")

FORMATS = {
    "lce": export.to_lce,
    "binary": functools.partial(export.to_openvino, form="binary"),
    "int8": functools.partial(export.to_openvino, form="int8"),
}
every_format = pytest.mark.parametrize("to_file", FORMATS.values(), ids=FORMATS)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)

RESNET = {"LceBconv2d": 16, "CONV_2D": 4}  # the first convolution and three shortcuts
# The last batch norm is behind a pool and becomes MUL and ADD; the others are thresholds, and the
# pools between convolutions are pools of bits.
VGG = {
    "ADD": 1, "CONV_2D": 1, "LceQuantize": 5, "LceBconv2d": 5, "LceBMaxPool2d": 2, "MAX_POOL_2D": 1,
    "MUL": 1, "RESHAPE": 1, "FULLY_CONNECTED": 1, "RELU_N1_TO_1": 0,
}  # fmt: skip
RESNET20 = {"LceBconv2d": 18, "CONV_2D": 1, "RELU_N1_TO_1": 0}  # Hardtanh is dropped or fused
IMAGENET = {"input_shape": (96, 96, 3)}
NORMAL = {"structure": "normal"}
ONE_BIT = [  # builder, arguments, operators in the LCE file
    (cifar_resnet, {"depth": 20, "structure": "bireal"}, RESNET20),
    (vgg_small, {}, VGG),
    slow(cifar_resnet, {"depth": 20, **NORMAL}, RESNET20),
    slow(resnet, {"depth": 18, "stem": "cifar", **NORMAL}, RESNET),
    slow(resnet, {"depth": 18, **IMAGENET}, RESNET),
    slow(resnet, {"depth": 34, **IMAGENET}, {**RESNET, "LceBconv2d": 32}),
]
_32A = {**NORMAL, "activation_bits": 32}
FLOAT_INPUTS = [  # builder, arguments, number of convolutions with 1-bit weights
    (cifar_resnet, {"depth": 20, **_32A}, 18),
    slow(resnet, {"depth": 18, **_32A, **IMAGENET}, 16),
    slow(resnet, {"depth": 34, **_32A, **IMAGENET}, 32),
]


def batch_norms(model):
    return [x for x in model.layers if isinstance(x, tf.keras.layers.BatchNormalization)]


def calibrated(model, images):
    """The model with batch-norm statistics of the images."""
    for norm in batch_norms(model):
        norm.momentum = 0.0
    model(images, training=True)
    return model


def without_rounding(model, seed=0):
    """The model with multiples of powers of two as weights, and rising and falling batch norms.

    With `coarse_images`, sums are exact. An offset of 2**-13 in batch norms is above rounding
    errors of devices and below the resolution of the sums: no activation is zero up to rounding.
    """
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, lq.layers.QuantConv2D) and layer.kernel_quantizer is None:
            layer.set_weights([rng.integers(-2, 3, layer.kernel.shape) / 4])
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            summed, signs = layer.input.node.layer, [-1, 1]
            if isinstance(summed, tf.keras.layers.MaxPool2D):
                summed, signs = summed.input.node.layer, [1]
            inputs = np.prod(summed.kernel.shape[:3]) if hasattr(summed, "kernel") else 1
            spread = 2.0 ** -np.round(np.log2(np.sqrt(inputs)))
            channels = layer.gamma.shape
            gamma = spread * rng.choice([0, 0.5, 1, 1.5], channels) * rng.choice(signs, channels)
            beta, mean = rng.integers(-8, 9, channels) / 16, rng.integers(-8, 9, channels)
            # So that 1 / sqrt(variance + epsilon) is 1.
            variance = np.full(channels, np.float32(1) - np.float32(layer.epsilon))
            layer.set_weights([gamma, beta + 2**-13, mean, variance])
    return model


def coarse_images(model, count=8, seed=0):
    shape = (count, *model.input_shape[1:])
    return (np.random.default_rng(seed).integers(-8, 9, shape) / 4).astype(np.float32)


def noise(model, count=8, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def convolution(filters=8, kernel_size=3, name="binary", **changes):
    """A 1-bit convolution."""
    default = {"padding": "same", "use_bias": False}
    default |= {"kernel_quantizer": "libra_pb", "input_quantizer": "ede_sign"}
    return lq.layers.QuantConv2D(filters, kernel_size, name=name, **default | changes)


def small(side=6, channels=32, stem=True, **changes):
    """A network of one 1-bit convolution, behind a float one with `stem`."""
    x = inputs = tf.keras.Input((side, side, 3 if stem else channels))
    if stem:
        x = tf.keras.layers.Conv2D(channels, 1, name="stem")(x)
    x = convolution(**changes)(x)
    return tf.keras.Model(inputs, tf.keras.layers.GlobalAveragePooling2D()(x), name="small")


def two_convolutions():
    x = inputs = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(32, 3, padding="same", name="stem", use_bias=False)(x)
    for i in (1, 2):
        x = convolution(32, name=f"conv{i}")(x)
        x = tf.keras.layers.BatchNormalization(name=f"norm{i}")(x)
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(10, name="linear")(x))


def outputs(file, images, **settings):
    """Outputs of a file, computed with the interface of Larq Compute Engine or OpenVINO."""
    if isinstance(file, bytes):
        return Interpreter(file).predict(images)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, **settings}
    compiled = core().compile_model(file, "CPU", settings)
    return np.concatenate([compiled(image[None])[0] for image in images])


def assert_weights_are_bits(size, model):
    """One bit per binary weight, four bytes per other number, and a small overhead."""
    quantized = [x for x in model.layers if getattr(x, "kernel_quantizer", None)]
    weights = sum(int(np.prod(layer.kernel.shape)) for layer in quantized)
    in_bits = weights / 8 + 4 * (model.count_params() - weights)
    assert weights / 8 < size < 1.03 * in_bits + 16_000


def written(model, folder):
    """The OpenVINO model, written and read again, and the size of its weights in the file."""
    openvino_export.save(model, folder / "net.xml")
    return core().read_model(folder / "net.xml"), (folder / "net.bin").stat().st_size


@pytest.mark.parametrize("builder, arguments, operators", ONE_BIT)
def test_every_1_bit_convolution_is_1_bit_and_logits_are_equal(
    builder, arguments, operators, tmp_path
):
    model = without_rounding(builder(**arguments))
    assert any((norm.gamma.numpy() < 0).any() for norm in batch_norms(model))
    images = coarse_images(model)
    expected = model.predict(images, verbose=0)
    assert np.ptp(expected, axis=0).min() > 0.01
    file = export.to_lce(model)
    found = export.operators(file)
    assert {name: found[name] for name in operators} == operators
    assert builder is not vgg_small or set(found) <= set(operators)
    assert_weights_are_bits(len(file), model)
    np.testing.assert_allclose(outputs(file, images), expected, atol=1e-4)
    for form, count in (("binary", operators["LceBconv2d"]), ("int8", 0)):
        read, size = written(export.to_openvino(model, form=form), tmp_path)
        assert openvino_export.operators(read)["BinaryConvolution"] == count
        assert_weights_are_bits(size, model)
        np.testing.assert_allclose(outputs(read, images), expected, atol=1e-4)


@pytest.mark.parametrize("builder, arguments, convolutions", FLOAT_INPUTS)
def test_1_bit_weights_with_float_inputs_are_bits_in_the_file(
    builder, arguments, convolutions, tmp_path
):
    model = builder(**arguments)
    images = noise(model)
    expected = calibrated(model, images).predict(images, verbose=0)
    file = export.to_lce(model)
    operators = export.operators(file)
    assert operators["LceBconv2d"] == 0 and operators["LceDequantize"] == convolutions
    made = export.to_openvino(model)
    assert export.form_of(made) == "float"
    read, read_size = written(made, tmp_path)
    for exported, size in ((file, len(file)), (read, read_size)):
        assert_weights_are_bits(size, model)
        np.testing.assert_allclose(outputs(exported, images), expected, atol=1e-4)


@pytest.mark.slow
def test_the_trained_digits_network_agrees_on_every_test_image():
    model = zoo.load("digits/resnet20_bireal_1w1a", weights="pretrained")
    digits = data.load("digits")
    batches = data.evaluation_batches(digits.test, batch_size=64, preprocessing=DIGITS)
    images = np.concatenate([x for x, _ in batches.as_numpy_iterator()])
    assert len(images) == 360
    expected = model.predict(images, verbose=0).argmax(1)
    file = export.to_lce(model)
    np.testing.assert_array_equal(outputs(file, images).argmax(1), expected)
    assert export.compare(model, file, images[:4])["equal"]


@pytest.mark.parametrize("policy", ["float64", "mixed_float16"])
def test_networks_of_other_precisions_are_exported_in_float32(policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    model = small()
    tf.keras.mixed_precision.set_global_policy("float32")
    assert export.compare(model, export.to_lce(model), noise(model))["equal"]


@every_format
def test_uint8_input_has_the_normalisation_built_in(to_file):
    model = small()
    with pytest.raises(ValueError, match="uint8_input=True needs .* set a model config"):
        to_file(model, uint8_input=True)
    set_model_config(model, ModelConfig("small", preprocessing=CIFAR10))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), np.uint8)
    expected = model.predict(CIFAR10.normalise(pixels), verbose=0)
    file = to_file(model, uint8_input=True)
    np.testing.assert_allclose(outputs(file, pixels), expected, atol=1e-4)
    seen = export.compare(model, file, pixels, labels=expected.argmax(1))
    assert seen["equal"] and seen["accuracy"] == {"network": 1.0, "file": seen["agreement"]}


# ---------------------------------------------------------------- comparing


@every_format
def test_bits_that_rounding_flips_are_found_and_explained(to_file):
    """Many activations within rounding of zero: integers minus an integer mean."""
    x = inputs = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(32, 3, padding="same", use_bias=False, name="stem")(x)
    x = tf.keras.layers.BatchNormalization(name="norm")(x)
    x = convolution(16)(x)
    model = tf.keras.Model(inputs, tf.keras.layers.GlobalAveragePooling2D()(x))
    rng = np.random.default_rng(0)
    model.get_layer("stem").set_weights([rng.integers(-3, 4, (3, 3, 3, 32))])
    ones, variance = np.ones(32), rng.uniform(0.5, 2, 32)
    model.get_layer("norm").set_weights([ones, 0 * ones, rng.integers(-3, 4, 32), variance])
    images = rng.integers(-2, 3, (8, 8, 8, 3)).astype(np.float32)
    before = model.get_weights(), model.predict(images, verbose=0)
    file = to_file(model)
    seen = export.compare(model, file, images)
    direct = np.abs(outputs(file, images) - before[1])
    assert (
        seen["largest_difference"] == pytest.approx(direct.max(), rel=1e-4) and direct.max() > 0.1
    )
    assert seen["traced_images"] == (direct.max(1) > 1e-4).sum()
    assert seen["flipped_bits"] > 0 and seen["largest_flipped"] < 1e-4
    assert seen["equal"] and seen["largest_difference_given_bits"] < 1e-4
    # The model itself is not changed.
    for old, new in zip(before[0], model.get_weights()):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model.predict(images, verbose=0), before[1])


@every_format
def test_a_file_of_other_weights_is_not_equal(to_file):
    model = two_convolutions()
    images = noise(model, 4)
    calibrated(model, images)
    file = to_file(model)
    assert export.compare(model, file, images)["equal"]
    norm, linear = model.get_layer("norm1"), model.get_layer("linear")
    for variable, change in ((norm.beta, 0.1), (linear.bias, 0.001)):
        variable.assign_add(tf.fill(variable.shape, change))
        assert not export.compare(model, file, images)["equal"]
        variable.assign_add(tf.fill(variable.shape, -change))
    kernel = model.get_layer("conv2").kernel.latent_variable
    kernel.assign(-kernel)
    with pytest.raises(ValueError, match="made from another network"):
        export.compare(model, file, images)


def test_images_that_do_not_fit_are_rejected():
    model = small()
    with pytest.raises(ValueError, match=r"images must be float32 \[n, 6, 6, 3\], .* got float64"):
        export.compare(model, export.to_lce(model), np.zeros((1, 6, 6, 3)))


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
    model.get_layer("binary").set_weights([np.full((3, 3, 32, 8), np.nan)])
    return model


NEITHER = [
    (lambda: cifar_resnet(20, input_shape=(None, None, 3)), "'images' .* input_shape="),
    (foreign_layer, "'wave' is a Lambda"),
    (shared_layer, "'twice' is used more than once"),
    (two_outputs, "1 inputs and 2 outputs"),
    (lambda: tf.keras.Sequential([tf.keras.layers.Dense(2)]), "not a functional"),
    (lambda: small(input_quantizer="ste_heaviside"), "'binary' has an input quantizer"),
    (lambda: small(kernel_quantizer="ste_tern"), "'binary' has quantized weights"),
    (lambda: small(channels=64, groups=2), "'binary' .* groups=2"),
    (not_finite, "'binary' has weights that are not finite"),
]
NOT_LCE = [
    (lambda: cifar_resnet(20, padding="symmetric"), r"'layer2.0.conv1' .* padding=\"same\""),
    (lambda: resnet(18, padding="symmetric"), r"'conv1' .* padding=\"same\""),
    (lambda: cifar_resnet(20, input_shape=(8, 8, 3)), "'layer3.0.conv2' gets 2x2 .* larger"),
]
NOT_OPENVINO = [
    (lambda: small(channels=33), "'binary' has 33 input .* form=\"int8\""),
    (lambda: small(stem=False), "'binary' reads no convolution .* form=\"int8\""),
    (lambda: small(activation="elu"), "'binary' has the activation 'elu'"),
]


@pytest.mark.parametrize(
    "make, message, formats",
    [(*case, ("lce", "binary")) for case in NEITHER]
    + [(*case, ("lce",)) for case in NOT_LCE]
    + [(*case, ("binary",)) for case in NOT_OPENVINO],
)
def test_what_cannot_be_converted_is_rejected(make, message, formats):
    model = make()
    for name in formats:
        with pytest.raises(ValueError, match=message):
            FORMATS[name](model)
