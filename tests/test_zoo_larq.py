"""larq-zoo's networks in the zoo: built, saved, loaded and trained like our own."""

import csv
from importlib import metadata
import json
import re
import shutil

from irnet_tf import set_ede
from irnet_tf.model_config import get_model_config
from irnet_tf.weights import packed_size, read, save_weights
import larq as lq
import numpy as np
import pytest
import tensorflow as tf
import zoo
from zoo.__main__ import main

from tests.conftest import randomise_batch_norm, result_of, run_train

SMALL = {"num_classes": 10, "input_shape": (32, 32, 3)}
IR_NET = {"kernel_quantizer": "libra_pb", "input_quantizer": "ede_sign"}
# As larq-zoo states them.
PARAMETERS = {
    "BinaryAlexNet": 61_859_192, "BiRealNet": 11_699_112, "BinaryResNetE18": 11_699_368,
    "BinaryDenseNet28": 5_150_504, "BinaryDenseNet37": 8_734_120,
    "BinaryDenseNet37Dilated": 8_734_120, "BinaryDenseNet45": 13_939_240,
    "DoReFaNet": 62_403_912, "RealToBinaryNet": 11_995_624, "XNORNet": 62_396_768,
}  # fmt: skip


@pytest.fixture
def x(rng):
    return rng.standard_normal((2, 32, 32, 3)).astype("float32")


def test_all_of_larq_zoos_networks_are_there():
    from larq_zoo import literature, sota

    names = {f"larq_zoo/{name}" for name in (*literature.__all__, *sota.__all__)}
    assert set(zoo.list_models("larq_zoo/*")) == names
    for name, parameters in PARAMETERS.items():
        assert zoo.info(f"larq_zoo/{name}").sizes["parameters"] == parameters
    assert zoo.info("larq_zoo/BiRealNet").paper == (0.5747, 0.7984)


@pytest.mark.slow
def test_a_file_alone_rebuilds_them(tmp_path, x):
    model = randomise_batch_norm(zoo.load("larq_zoo/BiRealNet", None, **SMALL, **IR_NET))
    convolutions = [k for k in model.layers if isinstance(k, lq.layers.QuantConv2D)]
    for layer in convolutions:
        kinds = type(layer.kernel_quantizer).__name__, type(layer.input_quantizer).__name__
        assert kinds == ("LibraPB", "EDESign") and layer.kernel_constraint is None
    assert len({id(layer.kernel_quantizer.t) for layer in convolutions}) == 16
    assert packed_size(model) < 2.5e6  # 11.2 million parameters
    set_ede(model, 10)  # as a trained network has it
    path = tmp_path / "birealnet.safetensors"
    save_weights(model, path)
    config = get_model_config(model)
    assert config.output == "probabilities" and config.classifier == "dense"
    assert read(path).model_config == config
    zoo.load("larq_zoo/QuickNetSmall", None, **SMALL)  # numbers layers of the process
    np.testing.assert_array_equal(zoo.load(path)(x), model(x))
    np.testing.assert_allclose(tf.reduce_sum(model(x), 1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="kernel_quantizer is 'libra_pb' in the file, but 'ste_s"):
        zoo.load("larq_zoo/BiRealNet", path, kernel_quantizer="ste_sign")
    tuned = zoo.load(path, num_classes=3)
    last = tf.keras.Model(model.input, model.get_layer("dense").input)(x)
    same = tf.keras.Model(tuned.input, tuned.get_layer("dense").input)(x)
    np.testing.assert_array_equal(last, same)


@pytest.mark.slow
def test_trained_on_digits_by_train_py(tmp_path):
    """The file that training leaves is evaluated to the same accuracy."""
    run = tmp_path / "run"
    run_train(
        "--model=larq_zoo/BiRealNet", "--data=digits", "--input_shape=32,32,3",
        "--augmentation=shift", "--epochs=2", "--batch_size=32", "--learning_rate=0.01",
        *(f"--{name}={alias}" for name, alias in IR_NET.items()), f"--output_dir={run}",
    )  # fmt: skip
    with open(run / "metrics.csv", newline="") as file:
        first, last = csv.DictReader(file)
    assert float(last["train_loss"]) < float(first["train_loss"])
    assert float(last["train_accuracy"]) > 0.3
    best = result_of(run)["best"]["accuracy"]
    file = shutil.move(run / "best.safetensors", tmp_path / "mine.safetensors")
    shutil.rmtree(run)
    out = run_train("--mode=evaluate", f"--weights={file}", cwd=tmp_path).stdout
    assert out.startswith(f"larq_zoo/BiRealNet, {file}: accuracy {best:.2%}"), out
    config = read(file).model_config
    assert config.classes == tuple("0123456789") and config.arguments.items() >= IR_NET.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "operator", "needs"),
    [
        ("net.tflite", "LceBconv2d", "larq_compute_engine"),
        ("net.xml", "BinaryConvolution", "openvino"),
    ],
)
def test_exported(output, operator, needs, tmp_path):
    """By the project's own proof equal to the network, a softmax at its end included."""
    pytest.importorskip(needs)
    model = zoo.load("larq_zoo/BinaryDenseNet28", None, **SMALL, **IR_NET)
    randomise_batch_norm(model)
    save_weights(model, tmp_path / "mine.safetensors")
    flags = ["--images=4", *(["--form=binary"] if needs == "openvino" else [])]
    main(["export", str(tmp_path / "mine.safetensors"), f"--output={tmp_path / output}", *flags])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["operators"][operator] == 23 and report["comparison"]["equal"]
    assert (tmp_path / output).stat().st_size > 1000
    pixels = np.random.default_rng(1).integers(0, 256, (50, 60, 3), np.uint8)
    [found] = zoo.predict(tmp_path / output, pixels, top=None)
    [expected] = zoo.predict(model, pixels, top=None)
    assert sum(p for _, p in found) == pytest.approx(1, abs=1e-4)
    assert dict(found) == pytest.approx(dict(expected), abs=0.05)


@pytest.mark.parametrize(
    ("network", "suffix", "message"),
    [
        ("BiRealNet", "tflite", "'quant_conv2d_9' gets 2x2 pixels.* larger input_shape"),
        ("QuickNetSmall", "tflite", "'quant_depthwise_conv2d' is a QuantDepthwiseConv2D"),
        ("QuickNetSmall", "xml", "'quant_depthwise_conv2d' is a QuantDepthwiseConv2D"),
    ],
)
def test_what_cannot_be_exported_is_rejected(network, suffix, message, tmp_path):
    save_weights(zoo.load(f"larq_zoo/{network}", None, **SMALL), tmp_path / "net.safetensors")
    flags = [str(tmp_path / "net.safetensors"), f"--output={tmp_path / 'net'}.{suffix}"]
    with pytest.raises(SystemExit) as error:
        main(["export", *flags])
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)


def test_arguments():
    for arguments, match in (
        ({"kernel_quantizer": "libra"}, "did you mean libra_pb"),
        ({"num_classes": 0}, "cannot be built with .*num_classes.: 0"),
        ({"input_shape": (32, 32)}, "cannot be built with"),
        ({"input_shape": (8, 8, 3)}, "cannot be built with"),
        ({"padding": "same"}, "has no argument 'padding'"),
    ):
        with pytest.raises(ValueError, match=match):
            zoo.load("larq_zoo/BinaryAlexNet", None, **arguments)
    with pytest.raises(ValueError, match="did you mean larq_zoo/BiRealNet"):
        zoo.load("larq_zoo/birealnet", None)
    headless = zoo.larq_zoo.BiRealNet(None, include_top=False, input_shape=(32, 32, 3))
    assert headless.output_shape == (None, 1, 1, 512)
    assert get_model_config(headless).classifier is None


def test_weights_without_internet(monkeypatch):
    def fail(*args, origin, **kwargs):
        raise Exception(f"URL fetch failure on {origin}: None -- Name or service not known")

    monkeypatch.setattr(tf.keras.utils, "get_file", fail)
    with pytest.raises(OSError, match="'larq_zoo/BiRealNet' cannot be loaded.*needs internet"):
        zoo.load("larq_zoo/BiRealNet")


def assert_same_weights(model, source, but=()):
    for layer in model.layers:
        if layer.weights and layer.name not in but:
            for a, b in zip(layer.get_weights(), source.get_layer(layer.name).get_weights()):
                np.testing.assert_array_equal(a, b)


def test_pretrained_weights_go_where_they_belong(monkeypatch):
    """larq-zoo builds the network, and the weights that it would download are random here."""
    from larq_zoo.literature import birealnet

    monkeypatch.setattr(birealnet.utils, "download_pretrained_model", lambda **_: "x.h5")
    loaded = []
    monkeypatch.setattr(tf.keras.Model, "load_weights", lambda self, path: loaded.append(self))
    tuned = zoo.load("larq_zoo/BiRealNet", num_classes=3)
    assert loaded[-1].output_shape == (None, 1000) and tuned.output_shape == (None, 3)
    assert get_model_config(tuned).classes is None
    assert_same_weights(tuned, loaded[-1], but=["dense"])
    other = zoo.load("larq_zoo/BiRealNet", input_shape=(96, 96, 3), name="mine")
    assert (other.name, other.input_shape) == ("mine", (None, 96, 96, 3))
    assert get_model_config(other).preprocessing.size == 96
    assert_same_weights(other, loaded[-1])
    with pytest.raises(ValueError, match="kernel_quantizer"):
        zoo.load("larq_zoo/BiRealNet", **IR_NET)
    plain = zoo.load("larq_zoo/BiRealNet")
    for model in (plain, tuned, other):  # so that a run does not take them for random
        source = f"larq-zoo {metadata.version('larq-zoo')}"
        assert get_model_config(model).initialized_from == source
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    probabilities = plain(zoo.preprocess_input(image, plain), training=False).numpy()[0]
    [found] = zoo.predict(plain, image)
    assert [p for _, p in found] == pytest.approx(sorted(probabilities, reverse=True)[:5], rel=1e-5)
