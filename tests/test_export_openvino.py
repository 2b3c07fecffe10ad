"""OpenVINO models against their networks."""

import hashlib
import json
import os
import subprocess
import sys

from irnet_tf import export
from irnet_tf.export import openvino as openvino_export
from irnet_tf.models import cifar_resnet, resnet
import larq as lq
import numpy as np
import pytest
import tensorflow as tf
import zoo

from tests import test_export
from tests.conftest import ROOT, randomise_batch_norm
from tests.test_export import (
    FLOAT_INPUTS,
    ONE_BIT,
    calibrated,
    coarse_images,
    noise,
    without_rounding,
)

ov = pytest.importorskip("openvino")
opset1 = pytest.importorskip("openvino.opset1")
op = pytest.importorskip("openvino.opset13")


def outputs(model, images, **settings):
    """Outputs of a model, computed with OpenVINO's own interface."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, **settings}
    compiled = ov.Core().compile_model(model, "CPU", settings)
    batch = compiled.input(0).shape[0]
    return np.concatenate(
        [compiled(images[i : i + batch])[0] for i in range(0, len(images), batch)]
    )


def small(*args, channels=32, **kwargs):
    """A network of one 1-bit convolution behind a float one."""
    model = test_export.small(*args, channels=channels, **kwargs)
    inputs = tf.keras.Input((*model.input_shape[1:3], 3))
    x = tf.keras.layers.Conv2D(channels, 1, name="stem")(inputs)
    for layer in model.layers[1:]:
        x = layer(x)
    return tf.keras.Model(inputs, x, name="small")


@pytest.mark.parametrize("form", ["binary", "int8"])
@pytest.mark.parametrize("name", ONE_BIT)
def test_every_1_bit_convolution_is_1_bit_and_logits_are_equal(name, form, tmp_path):
    builder, arguments, convolutions = ONE_BIT[name]
    model = without_rounding(builder(**arguments))
    images = coarse_images(model, 6)
    assert np.ptp(model.predict(images, verbose=0), axis=0).min() > 1e-3
    openvino_export.save(export.to_openvino(model, form=form), tmp_path / "net.xml")
    read = ov.Core().read_model(tmp_path / "net.xml")
    expected = convolutions if form == "binary" else 0
    assert openvino_export.operators(read)["BinaryConvolution"] == expected
    assert export.compare(model, read, images)["equal"]
    test_export.assert_weights_are_bits((tmp_path / "net.bin").read_bytes(), model)


@pytest.mark.parametrize("name", FLOAT_INPUTS)
def test_1_bit_weights_with_float_inputs_are_bits_in_the_file(name, tmp_path):
    builder, arguments, _ = FLOAT_INPUTS[name]
    model = builder(**arguments)
    images = noise(model, 2)
    for layer in model.layers:
        layer.momentum = 0.0
    model(images, training=True)  # else ReLU networks of random weights overflow
    expected = model.predict(images, verbose=0)
    assert np.isfinite(expected).all()
    made = export.to_openvino(model)
    assert export.form_of(made) == "float"
    openvino_export.save(made, tmp_path / "net.xml")
    test_export.assert_weights_are_bits((tmp_path / "net.bin").read_bytes(), model)
    read = ov.Core().read_model(tmp_path / "net.xml")
    assert np.abs(outputs(read, images) - expected).max() <= 1e-4 * np.abs(expected).max()


def full_precision():
    return cifar_resnet(20, weight_bits=32, activation_bits=32)


@pytest.mark.parametrize(
    "make",
    [
        full_precision,
        lambda: cifar_resnet(20, padding="symmetric", include_top=False),
        pytest.param(
            lambda: resnet(18, padding="symmetric", input_shape=(64, 64, 3)),
            marks=pytest.mark.slow,
        ),
        lambda: resnet(18, input_shape=(50, 38, 3)),
        lambda: small("magnitude_aware_sign", "approx_sign", use_bias=True, activation="relu"),
        lambda: small(side=1),
        lambda: small(strides=2, side=7, kernel_size=5),
        lambda: small(dilation_rate=2, side=9),
        lambda: small(pad_values=1.0),
        lambda: small(padding="valid"),
    ],
)
def test_other_networks(make):
    model = randomise_batch_norm(make())
    images = noise(model, 3)
    for form in ("binary", "int8"):
        seen = export.compare(model, export.to_openvino(model, form=form), images)
        assert seen["equal"], (form, seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo.list_models() if name.endswith("_fp")])
def test_full_precision_networks_err_no_more_than_tensorflow(name):
    model = zoo.load(name, weights=None)
    images = noise(model, 2)
    expected = calibrated(model, images).predict(images, verbose=0)
    made = outputs(export.to_openvino(model), images)
    tf.keras.mixed_precision.set_global_policy("float64")
    try:
        exact = zoo.load(name, weights=None)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    exact.set_weights(model.get_weights())
    exact = exact.predict(images, verbose=0)
    assert np.ptp(exact) > 0.1
    rounding = np.abs(expected - exact).max()
    assert np.abs(made - exact).max() <= 3 * rounding + 1e-6 * np.abs(exact).max()
    assert rounding < 1e-2 * np.abs(exact).max()


def test_layers_of_other_networks():
    """Every layer that is converted, in two branches, against Keras."""
    layers = tf.keras.layers
    inputs = tf.keras.Input((12, 10, 8))
    x = layers.ZeroPadding2D(((1, 2), (0, 1)))(inputs)
    x = layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=2)(x)
    x = layers.PReLU(tf.keras.initializers.Constant(0.3), shared_axes=[1, 2])(x)
    a = layers.Conv2D(16, 3, padding="same", groups=2, activation="tanh")(x)
    b = layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.2)(x)
    x = layers.Concatenate()([layers.Multiply()([a, b]), layers.Add()([a, b, b])])
    a = layers.MaxPooling2D(3, 2, "same")(x)
    b = layers.AveragePooling2D(3, 2, "same")(x)
    x = layers.Concatenate(axis=1)([a, b])
    x = layers.Dense(6, activation="sigmoid")(layers.Rescaling(0.5, 0.25)(x))
    x = layers.Activation("relu6")(layers.Dropout(0.5)(x))
    x = layers.Reshape((-1, 3, 2))(x)
    pooled = layers.GlobalMaxPooling2D(keepdims=True)(x)
    x = layers.Multiply()([x, pooled])
    x = layers.Softmax()(layers.Dense(5)(layers.Flatten()(x)))
    model = tf.keras.Model(inputs, x)
    images = noise(model, 4)
    made = outputs(export.to_openvino(model), images)
    np.testing.assert_allclose(made, model.predict(images, verbose=0), atol=1e-6)


def test_any_batch():
    model = without_rounding(cifar_resnet(20, input_shape=(16, 16, 3)))
    images = coarse_images(model, 5)
    for form in ("binary", "int8"):
        expected = outputs(export.to_openvino(model, form=form), images)
        made = export.to_openvino(model, form=form, batch_size=5)
        np.testing.assert_allclose(outputs(made, images), expected, atol=1e-4)
    made = export.to_openvino(model, batch_size=None)
    assert export.form_of(made) == "int8"
    compiled = ov.Core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (1, 5):
        np.testing.assert_allclose(compiled(images[:count])[0], expected[:count], atol=1e-4)


def test_auto_takes_the_faster_form(monkeypatch):
    model = small()
    for faster in ("binary", "int8"):
        times = {"binary": 2.0, "int8": 2.0, faster: 1.0}
        monkeypatch.setattr(openvino_export, "interleaved_ms", lambda *_, times=times: times)
        assert export.form_of(export.to_openvino(model)) == faster


def test_uint8_input_has_the_preprocessing_built_in():
    model = zoo.load("cifar10/resnet20_bireal_1w1a", weights=None, num_classes=7)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    expected = model.predict(zoo.info("cifar10/resnet20_bireal_1w1a").preprocessing(pixels))
    made = export.to_openvino(model, uint8_input=True, form="binary")
    assert made.input(0).element_type == ov.Type.u8
    seen = export.compare(model, made, pixels, labels=expected.argmax(1))
    assert seen["equal"] and seen["accuracy"] == {"network": 1.0, "file": seen["agreement"]}
    with pytest.raises(ValueError, match="has its own preprocessing .*omit mean and std"):
        export.to_openvino(model, uint8_input=True, mean=0.5, std=0.5)


# ---------------------------------------------------------------- comparing


def two_convolutions():
    inputs = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(32, 3, padding="same", name="stem", use_bias=False)(inputs)
    for i in (1, 2):
        x = lq.layers.QuantConv2D(
            32, 3, padding="same", use_bias=False, kernel_quantizer="libra_pb",
            input_quantizer="ede_sign", name=f"conv{i}",
        )(x)  # fmt: skip
        x = tf.keras.layers.BatchNormalization(name=f"norm{i}")(x)
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(10, name="linear")(x))


@pytest.mark.parametrize("form", ["binary", "int8"])
def test_a_file_of_other_weights_is_not_equal(form):
    model = two_convolutions()
    images = noise(model, 4)
    calibrated(model, images)
    made = export.to_openvino(model, form=form)
    assert export.compare(model, made, images)["equal"]
    beta = model.get_layer("norm1").beta
    before = beta.numpy()
    beta.assign(before + 0.1)
    assert not export.compare(model, made, images)["equal"]
    beta.assign(before)
    kernel = model.get_layer("conv2").kernel.latent_variable
    kernel.assign(-kernel)
    with pytest.raises(ValueError, match="made from another network"):
        export.compare(model, made, images)


@pytest.mark.parametrize("form", ["binary", "int8"])
def test_bits_that_rounding_flips_are_explained(form):
    """Many activations within rounding of zero: integers minus an integer mean."""
    inputs = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(32, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = tf.keras.layers.BatchNormalization(name="norm")(x)
    x = lq.layers.QuantConv2D(
        16, 3, padding="same", use_bias=False, kernel_quantizer="libra_pb",
        input_quantizer="ede_sign", name="binary",
    )(x)  # fmt: skip
    model = tf.keras.Model(inputs, tf.keras.layers.GlobalAveragePooling2D()(x))
    rng = np.random.default_rng(0)
    model.get_layer("stem").set_weights([rng.integers(-3, 4, (3, 3, 3, 32))])
    ones, variance = np.ones(32), rng.uniform(0.5, 2, 32)
    model.get_layer("norm").set_weights([ones, 0 * ones, rng.integers(-3, 4, 32), variance])
    images = rng.integers(-2, 3, (8, 8, 8, 3)).astype(np.float32)
    seen = export.compare(model, export.to_openvino(model, form=form), images)
    assert seen["flipped_bits"] > 0 and seen["largest_difference"] > 1e-3
    assert seen["equal"], seen


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "make, arguments, message",
    [
        (lambda: cifar_resnet(20, input_shape=(None, None, 3)), {}, "'images' .* input_shape="),
        (test_export.foreign_layer, {}, "'wave' is a Lambda"),
        (
            lambda: small(input_quantizer="ste_heaviside"),
            {},
            "'binary' has an input quantizer",
        ),
        (lambda: small(kernel_quantizer="ste_tern"), {}, "'binary' has quantized weights"),
        (lambda: small(channels=33), {"form": "binary"}, "'binary' has 33 input .* form=\"int8\""),
        (lambda: small(activation="elu"), {}, "'binary' has the activation 'elu'"),
        (test_export.small, {"form": "binary"}, "'binary' reads no convolution .* form=\"int8\""),
        (small, {"form": "binary", "batch_size": None}, 'known batch size.* form="int8"'),
        (small, {"form": "fast"}, "form must be one of 'binary', 'int8', 'auto', got 'fast'"),
        (small, {"batch_size": 0}, "batch_size must be a positive integer or None, got 0"),
        (small, {"uint8_input": True}, "uint8_input=True needs a normalisation"),
        (small, {"uint8_input": True, "mean": 0.5, "std": 0}, "std must be above 0, got 0"),
        (small, {"uint8_input": True, "mean": np.nan, "std": 1}, "mean must be one finite number"),
    ],
)
def test_what_cannot_be_converted_is_rejected(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        export.to_openvino(make(), **arguments)


@pytest.mark.parametrize(
    "make",
    [lambda: small(channels=33), test_export.small],
    ids=["33 channels", "signs of the image"],
)
def test_auto_is_int8_where_openvinos_1_bit_kernels_fail(make):
    model = make()
    made = export.to_openvino(model)
    assert export.form_of(made) == "int8"
    assert export.compare(model, made, noise(model, 3))["equal"]


def test_constants_are_copies():
    """OpenVINO shares NumPy's memory, which may be freed."""
    from irnet_tf.export.openvino_convolutions import bits, constant

    positive, values = np.zeros(512, bool), np.zeros(8, np.float32)
    made = bits(positive, "little"), constant(values)
    positive[:], values[:] = True, 1
    for node in made:
        assert not np.any(node.get_data())


def test_files_are_in_full_precision_and_keep_the_hash_of_their_weights(tmp_path):
    """OpenVINO's default is float16 in files and bfloat16 on processors that have it."""
    model = full_precision()
    images = noise(model, 1)
    made = export.to_openvino(model)
    openvino_export.save(made, tmp_path / "net.xml")
    read = ov.Core().read_model(tmp_path / "net.xml")
    np.testing.assert_array_equal(outputs(read, images), outputs(made, images))
    np.testing.assert_array_equal(
        openvino_export.Device(made).predict(images), outputs(made, images)
    )
    facts = json.loads(read.get_rt_info(["irnet_tf"]).astype(str))
    digest = hashlib.sha256((tmp_path / "net.bin").read_bytes()).hexdigest()
    assert facts["bin_sha256"] == digest and facts["form"] == "float"


@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_both_forms_agree_on_any_instruction_set(instructions):
    """On AVX2, sums of bytes saturate if the bytes have the wrong range."""
    code = (
        "from tests.test_export_openvino import *\n"
        "model = randomise_batch_norm(cifar_resnet(20))\nimages = noise(model, 2)\n"
        "a, b = (outputs(export.to_openvino(model, form=f), images) for f in ('binary', 'int8'))\n"
        "assert np.abs(a - b).max() < 1e-4"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_tie_in_front_of_a_sign_is_plus_one():
    """OpenVINO moves a batch norm into the threshold behind it, where 0 is lost to rounding."""
    model = two_convolutions()
    for name in ("norm1", "norm2"):
        norm = model.get_layer(name)
        shape = norm.gamma.shape
        rng = np.random.default_rng(0)
        mean, variance = rng.integers(-9, 9, shape) * 2, np.full(shape, 1 - norm.epsilon)
        norm.set_weights([rng.choice([-1, -0.5, 1, 1.5], shape), 0 * mean, mean, variance])
    stem = model.get_layer("stem")
    stem.set_weights([np.random.default_rng(0).integers(-2, 3, stem.kernel.shape)])
    images = coarse_images(model, 4)
    for form in ("binary", "int8"):
        made = outputs(export.to_openvino(model, form=form), images)
        np.testing.assert_allclose(made, model.predict(images, verbose=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "use",
    [
        "from irnet_tf import export; from irnet_tf.models import cifar_resnet\n"
        "export.to_openvino(cifar_resnet(20, weight_bits=32, activation_bits=32))",
        "from zoo.runtime import Runner; Runner('net.xml')",
    ],
    ids=["export", "runner"],
)
def test_nothing_is_sent_over_the_network(use, tmp_path):
    """OpenVINO imports its telemetry if it is installed."""
    openvino_export.save(export.to_openvino(small()), tmp_path / "net.xml")
    code = f"""
import socket
def refuse(*_): raise AssertionError("network")
socket.socket.connect = socket.create_connection = refuse
{use}
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.split()[-1] == "openvino.tools.ovc.telemetry_stub"
