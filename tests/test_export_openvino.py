"""OpenVINO models against the networks they are made of, and the traps on the way."""

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
    """What OpenVINO computes, batch by batch, by its own interface alone."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, **settings}
    compiled = ov.Core().compile_model(model, "CPU", settings)
    batch = compiled.input(0).shape[0]
    return np.concatenate(
        [compiled(images[i : i + batch])[0] for i in range(0, len(images), batch)]
    )


def small(kernel_quantizer="libra_pb", input_quantizer="ede_sign", side=6, channels=32, **conv):
    """A network of one 1-bit convolution behind a float one."""
    inputs = tf.keras.Input((side, side, 3))
    x = tf.keras.layers.Conv2D(channels, 1, name="stem")(inputs)
    x = lq.layers.QuantConv2D(
        **{"filters": 8, "kernel_size": 3, "padding": "same", "use_bias": False, **conv},
        kernel_quantizer=kernel_quantizer,
        input_quantizer=input_quantizer,
        name="binary",
    )(x)
    return tf.keras.Model(inputs, tf.keras.layers.GlobalAveragePooling2D()(x), name="small")


def kinds(model):
    return openvino_export.operators(model)


@pytest.mark.parametrize("form", ["binary", "int8"])
@pytest.mark.parametrize("name", ONE_BIT)
def test_networks_without_rounding_are_equal_bit_by_bit(name, form, tmp_path):
    builder, arguments, convolutions = ONE_BIT[name]
    model = without_rounding(builder(**arguments))
    images = coarse_images(model, 6)
    expected = model.predict(images, 6, verbose=0)
    assert np.ptp(expected, axis=0).min() > 1e-3, "images must differ for this to show anything"
    made = export.to_openvino(model, form=form)
    openvino_export.save(made, tmp_path / "net.xml")
    read = ov.Core().read_model(tmp_path / "net.xml")
    assert kinds(read)["BinaryConvolution"] == (convolutions if form == "binary" else 0)
    assert np.abs(outputs(read, images) - expected).max() <= 1e-5 * np.abs(expected).max()
    # The file: a bit a binary weight, and 4 bytes for everything else.
    quantized = [x for x in model.layers if getattr(x, "kernel_quantizer", None)]
    weights = sum(int(np.prod(layer.kernel.shape)) for layer in quantized)
    in_bits = weights / 8 + 4 * (model.count_params() - weights)
    assert weights / 8 < (tmp_path / "net.bin").stat().st_size < 1.02 * in_bits


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
    quantized = [x for x in model.layers if getattr(x, "kernel_quantizer", None)]
    weights = sum(int(np.prod(layer.kernel.shape)) for layer in quantized)
    in_bits = weights / 8 + 4 * (model.count_params() - weights)
    assert weights / 8 < (tmp_path / "net.bin").stat().st_size < 1.02 * in_bits
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
def test_full_precision_twins_err_no_more_than_tensorflow(name):
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
    expected = model.predict(images, verbose=0)
    for form in ("binary", "int8"):
        np.testing.assert_array_equal(
            outputs(export.to_openvino(model, form=form, batch_size=5), images), expected
        )
    anything = export.to_openvino(model, batch_size=None)
    assert export.form_of(anything) == "int8"
    compiled = ov.Core().compile_model(anything, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (1, 5):
        np.testing.assert_array_equal(compiled(images[:count])[0], expected[:count])


def test_auto_takes_the_faster_form(monkeypatch):
    model = small()
    for faster in ("binary", "int8"):
        times = {"binary": 2.0, "int8": 2.0, faster: 1.0}
        monkeypatch.setattr(openvino_export, "interleaved_ms", lambda *_, times=times: times)
        assert export.form_of(export.to_openvino(model)) == faster


def test_uint8_input_has_the_preprocessing_built_in():
    import zoo

    model = zoo.load("cifar10/resnet20_bireal_1w1a", weights=None, num_classes=7)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    expected = model.predict(zoo.info("cifar10/resnet20_bireal_1w1a").preprocessing(pixels))
    made = export.to_openvino(model, uint8_input=True, form="binary")
    assert made.input(0).element_type == ov.Type.u8
    seen = export.compare(model, made, pixels, labels=expected.argmax(1))
    assert seen["equal"] and seen["accuracy"] == {"network": 1.0, "file": seen["agreement"]}
    with pytest.raises(ValueError, match="brings its preprocessing .*leave mean and std out"):
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
    for variable, change in (
        (model.get_layer("norm1").beta, 0.1),
        (model.get_layer("linear").bias, 0.001),
    ):
        before = variable.numpy()
        variable.assign(before + change)
        assert not export.compare(model, made, images)["equal"]
        variable.assign(before)
    kernel = model.get_layer("conv2").kernel.latent_variable
    kernel.assign(-kernel)
    with pytest.raises(ValueError, match="made of another network"):
        export.compare(model, made, images)


@pytest.mark.parametrize("form", ["binary", "int8"])
def test_bits_that_rounding_flips_are_explained(form):
    """Activations within rounding of zero, in plenty: integers less a mean that is one of them."""
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


# ---------------------------------------------------------------- refusals


def direct():
    """Signs of the image itself."""
    return test_export.small()


def lambda_layer():
    inputs = tf.keras.Input((8, 8, 3))
    return tf.keras.Model(inputs, tf.keras.layers.Lambda(tf.sin, name="wave")(inputs))


@pytest.mark.parametrize(
    "make, arguments, message",
    [
        (lambda: cifar_resnet(20, input_shape=(None, None, 3)), {}, "'images' .* input_shape="),
        (lambda_layer, {}, "'wave' is a Lambda"),
        (lambda: small(input_quantizer="ste_heaviside"), {}, "'binary' quantizes its input .*Open"),
        (lambda: small(kernel_quantizer="ste_tern"), {}, "'binary' has quantized weights"),
        (lambda: small(channels=33), {"form": "binary"}, "'binary' has 33 input .* form=\"int8\""),
        (lambda: small(activation="elu"), {}, "'binary' has the activation 'elu'"),
        (direct, {"form": "binary"}, "'binary' takes signs of .* form=\"int8\""),
        (small, {"form": "binary", "batch_size": None}, 'known batch size.* form="int8"'),
        (small, {"form": "fast"}, "form must be one of 'binary', 'int8', 'auto', got 'fast'"),
        (small, {"batch_size": 0}, "batch_size must be a positive integer or None, got 0"),
        (small, {"uint8_input": True}, "uint8_input=True needs the normalisation"),
        (small, {"uint8_input": True, "mean": 0.5, "std": 0}, "std must be above 0, got 0"),
        (small, {"uint8_input": True, "mean": np.nan, "std": 1}, "mean must be one finite number"),
    ],
)
def test_what_cannot_be_converted_is_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        export.to_openvino(make(), **arguments)


def test_channels_that_are_no_multiple_of_8_are_computed_in_int8():
    model = small(channels=33)
    made = export.to_openvino(model)
    assert export.form_of(made) == "int8"
    assert export.compare(model, made, noise(model, 3))["equal"]


# ---------------------------------------------------------------- traps of OpenVINO 2026.4
# Each test shows the trap by OpenVINO's own interface; when one fails, OpenVINO has mended it.


def bit_constant(signs):
    packed = np.packbits((signs > 0).reshape(-1), bitorder="little")
    tensor = ov.Tensor(ov.Type.u1, ov.Shape(list(signs.shape)))
    tensor.data[:] = packed
    return ov.op.Constant(tensor)


def naive(channels, *, low=0.0, high=1.0, limit=-1.2e-38, batch=1, output=False):
    """(model of one BinaryConvolution of 3x3, its weights, images)."""
    rng = np.random.default_rng(0)
    weights = rng.choice([-1.0, 1.0], (8, channels, 3, 3))
    images = rng.integers(-2, 3, (2, channels, 6, 6)).astype(np.float32)
    shape = ov.PartialShape([batch, channels, 6, 6])
    x = op.parameter(shape, np.float32)
    limits = [op.constant(np.float32(value)) for value in (limit, limit, low, high)]
    signs = op.fake_quantize(x, *limits, 2)
    y = opset1.binary_convolution(
        signs, bit_constant(weights), [1, 1], [1, 1], [1, 1], [1, 1], "xnor-popcount", 0.0
    )
    y = op.add(y, op.constant(np.float32(0)))
    results = [y, signs] if output else [y]
    return ov.Model(results, [x], "naive"), weights, images


def truth(weights, images):
    signs = np.where(images >= 0, 1.0, -1.0).transpose(0, 2, 3, 1)
    return (
        tf.nn.conv2d(signs, weights.transpose(2, 3, 1, 0), 1, "SAME").numpy().transpose(0, 3, 1, 2)
    )


def error_of(*args, **kwargs):
    model, weights, images = naive(*args, **kwargs)
    return np.abs(outputs(model, images) - truth(weights, images)).max()


def test_trap_signs_in_front_of_a_1_bit_convolution_must_be_0_and_1():
    assert error_of(32) == 0
    assert not error_of(32, low=-1.0) <= 1  # NaN, or numbers that have nothing to do with it


def test_trap_a_threshold_of_zero_gives_zero_the_wrong_sign():
    assert error_of(32, limit=0.0) > 1


def test_trap_channels_must_be_a_multiple_of_8():
    assert error_of(40) == 0 and error_of(8) == 0
    # In a process of its own: it may read beyond its memory.
    code = "from tests.test_export_openvino import *\nassert error_of(33) == 0"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0


def test_trap_signs_of_the_image_itself_crash_the_process():
    code = (
        "from tests.test_export_openvino import *\n"
        "openvino_export._settled = lambda *_: True\n"
        "model = direct()\nimages = noise(model, 8)\n"
        "made = export.to_openvino(model, form='binary')\n"
        "np.testing.assert_allclose(outputs(made, images), model.predict(images), atol=1e-4)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0
    model = direct()
    made = export.to_openvino(model)
    assert export.form_of(made) == "int8"
    assert export.compare(model, made, noise(model, 3))["equal"]


def test_trap_a_1_bit_convolution_needs_a_known_batch():
    with pytest.raises(RuntimeError, match="BinaryConvolution"):
        error_of(32, batch=-1)


@pytest.mark.parametrize("crashes", [False, True])
def test_trap_signs_as_an_output_crash_the_process(crashes):
    code = (
        "from tests.test_export_openvino import *\n"
        f"model, _, images = naive(32, output={crashes})\nprint(outputs(model, images).shape)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.returncode != 0) == crashes, process.stderr[-500:]


def test_trap_convert_reads_a_byte_from_the_other_end():
    signs = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    x = op.parameter([8], np.float32)
    y = op.add(x, op.convert(bit_constant(signs), np.float32))
    read = outputs(ov.Model([y], [x], "bits"), np.zeros((8,), np.float32))
    np.testing.assert_array_equal(read, signs[::-1])


def test_trap_a_constant_shares_memory_that_numpy_may_free():
    from irnet_tf.export.openvino_convolutions import bits, constant

    array = np.zeros(64, np.uint8)
    shared = ov.op.Constant(ov.Tensor(array, ov.Shape([64 * 8]), ov.Type.u1))
    array[:] = 255
    assert np.all(shared.get_data() == 255)
    positive, values = np.zeros(512, bool), np.zeros(8, np.float32)
    ours = bits(positive, "little"), constant(values)
    positive[:], values[:] = True, 1
    for made in ours:
        assert not np.any(made.get_data())


def test_trap_files_are_rounded_to_half_precision_unless_told_otherwise(tmp_path):
    model = full_precision()
    made = export.to_openvino(model)
    images = noise(model, 1)
    expected = outputs(made, images)
    ov.save_model(made, tmp_path / "half.xml")
    openvino_export.save(made, tmp_path / "whole.xml")
    half, whole = (ov.Core().read_model(tmp_path / f"{n}.xml") for n in ("half", "whole"))
    assert np.abs(outputs(half, images) - expected).max() > 1e-5
    np.testing.assert_array_equal(outputs(whole, images), expected)


def test_trap_bfloat16_is_taken_where_the_processor_has_it():
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in capabilities:
        pytest.skip("this processor has no bfloat16")
    model = full_precision()
    images = noise(model, 1)
    made = export.to_openvino(model)
    default = ov.Core().compile_model(made, "CPU")(images)[0]
    expected = model.predict(images, verbose=0)
    assert np.abs(default - expected).max() > 1e-3 > np.abs(outputs(made, images) - expected).max()
    np.testing.assert_array_equal(
        openvino_export.Device(made).predict(images), outputs(made, images)
    )


SATURATION = """
from tests.test_export_openvino import *
rng = np.random.default_rng(0)
weights = rng.choice([-1.0, 1.0], (16, 256, 3, 3)).astype(np.float32)
images = rng.choice([-1.0, 1.0], (1, 256, 6, 6)).astype(np.float32)
def error(low, high, scale):
    limits = [[op.constant(np.float32(v)) for v in pair] for pair in ((low, high), (-scale, scale))]
    x = op.parameter([1, 256, 6, 6], np.float32)
    y = op.fake_quantize(op.clamp(x, -1.0, 1.0), *limits[0], *limits[0], 256)
    w = op.fake_quantize(op.constant(weights), *limits[1], *limits[1], 255)
    y = op.convolution(y, w, [1, 1], [1, 1], [1, 1], [1, 1])
    y = op.add(op.multiply(y, op.constant(np.float32(1))), op.constant(np.float32(0.5)))
    model = ov.Model([y], [x], "int8")
    return np.abs(outputs(model, images) - truth(weights, images) - 0.5).max()
print(error(-1.0, 127 / 128, 1.0), error(-128.0, 127.0, 127.0))
model = randomise_batch_norm(cifar_resnet(20))
images = noise(model, 2)
forms = [outputs(export.to_openvino(model, form=f), images) for f in ("binary", "int8")]
print(np.abs(forms[0] - forms[1]).max())
"""


@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_trap_bytes_of_the_wrong_range_saturate_on_avx2(instructions):
    process = subprocess.run(
        [sys.executable, "-c", SATURATION],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    wrong, right, forms = map(float, process.stdout.split()[-3:])
    assert right == 0 and forms < 1e-4
    if instructions == "AVX2":
        assert wrong > 1


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
def test_nothing_is_sent_home(use, tmp_path):
    """OpenVINO's tools import its telemetry if it is installed, and a stub if not."""
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
