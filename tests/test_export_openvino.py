"""OpenVINO models: other layers and sizes, forms, files, OpenVINO's pitfalls."""

import hashlib
import json
import os
import subprocess
import sys

from irnet_tf import export
from irnet_tf.export import openvino as openvino_export
from irnet_tf.export.openvino import core
from irnet_tf.models import cifar_resnet, resnet
import numpy as np
import pytest
import tensorflow as tf
import zoo

from tests.conftest import ROOT, randomise_batch_norm
from tests.test_export import (
    calibrated,
    coarse_images,
    noise,
    outputs,
    small,
    two_convolutions,
    without_rounding,
    written,
)

ov = pytest.importorskip("openvino")


@pytest.mark.parametrize(
    "make",
    [
        lambda: cifar_resnet(20, padding="symmetric", include_top=False, input_shape=(16, 16, 3)),
        pytest.param(
            lambda: resnet(18, padding="symmetric", input_shape=(50, 38, 3)),
            marks=pytest.mark.slow,
        ),
        lambda: small(
            kernel_quantizer="magnitude_aware_sign",
            input_quantizer="approx_sign",
            use_bias=True,
            activation="relu",
        ),
        lambda: small(side=1),
        lambda: small(strides=2, side=7, kernel_size=5),
        lambda: small(dilation_rate=2, side=9),
        lambda: small(pad_values=1.0),
        lambda: small(padding="valid"),
    ],
)
def test_other_networks(make):
    model = randomise_batch_norm(make())
    images = noise(model, 1)
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
    exact = zoo.load(name, weights=None)
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


@pytest.mark.parametrize("form, batches", [("binary", (5,)), ("int8", (5, -1))])
def test_a_model_can_be_reshaped_to_other_batch_sizes(form, batches):
    model = without_rounding(cifar_resnet(20, input_shape=(16, 16, 3)))
    images = coarse_images(model, 5)
    made = export.to_openvino(model, form=form)
    expected = outputs(made, images)
    for batch in batches:
        made.reshape([batch, 16, 16, 3])
        compiled = core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        np.testing.assert_allclose(compiled(images)[0], expected, atol=1e-4)


def test_auto_takes_the_faster_form(monkeypatch):
    model = small()
    for faster in ("binary", "int8"):
        times = {"binary": 2.0, "int8": 2.0, faster: 1.0}
        monkeypatch.setattr(openvino_export, "latency_ms", lambda *_, times=times: times)
        assert export.form_of(export.to_openvino(model)) == faster
    with pytest.raises(ValueError, match="form must be one of 'binary', 'int8', 'auto'"):
        export.to_openvino(model, form="fast")


@pytest.mark.parametrize("changes", [{"channels": 33}, {"stem": False}])
def test_auto_is_int8_where_openvinos_1_bit_kernels_fail(changes):
    model = small(**changes)
    made = export.to_openvino(model)
    assert export.form_of(made) == "int8"
    assert export.compare(model, made, noise(model, 3))["equal"]


def test_constants_are_copies():
    """OpenVINO shares NumPy's memory, which may be freed."""
    from irnet_tf.export.openvino_convolutions import constant, one_bit_weights

    kernel, values = -np.ones((1, 1, 64, 8), np.float32), np.zeros(8, np.float32)
    made = one_bit_weights(kernel, "binary")[0], constant(values)
    kernel[:], values[:] = 1, 1
    for node in made:
        assert not np.any(node.get_data())


def test_files_are_in_full_precision_and_keep_the_hash_of_their_weights(tmp_path):
    """OpenVINO's default is float16 in files and bfloat16 on processors that have it."""
    model = cifar_resnet(20, weight_bits=32, activation_bits=32)
    images = noise(model, 1)
    made = export.to_openvino(model)
    read, _ = written(made, tmp_path)
    expected = outputs(made, images)
    np.testing.assert_array_equal(outputs(read, images), expected)
    np.testing.assert_array_equal(openvino_export.Device(made).predict(images), expected)
    facts = json.loads(read.get_rt_info(["irnet_tf"]).astype(str))
    digest = hashlib.sha256((tmp_path / "net.bin").read_bytes()).hexdigest()
    assert facts["bin_sha256"] == digest and facts["form"] == "float"


def run_python(code, **arguments):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_both_forms_agree_on_any_instruction_set(instructions):
    """On AVX2, sums of bytes saturate if the bytes have the wrong range."""
    code = (
        "from tests.test_export_openvino import *\n"
        "model = randomise_batch_norm(cifar_resnet(20))\nimages = noise(model, 2)\n"
        "a, b = (outputs(export.to_openvino(model, form=f), images) for f in ('binary', 'int8'))\n"
        "assert np.abs(a - b).max() < 1e-4"
    )
    run_python(code, env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions})


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


@pytest.mark.slow
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
    printed = run_python(code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert printed.split()[-1] == "openvino.tools.ovc.telemetry_stub"
