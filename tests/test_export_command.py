"""The export command: files, reports and errors."""

import dataclasses
import json

from irnet_tf import export
from irnet_tf.export import openvino
from irnet_tf.model_config import get_model_config, set_model_config
from irnet_tf.models import cifar_resnet
from irnet_tf.preprocessing import DIGITS, Preprocessing
from irnet_tf.weights import save_weights
import numpy as np
from PIL import Image
import pytest
from zoo import __main__ as command
from zoo import export as zoo_export

from tests.conftest import ROOT, randomise_batch_norm

NAME = "digits/resnet20_bireal_1w1a"


def reports(output):
    assert (output.parent / "report.png").read_bytes().startswith(b"\x89PNG")
    text = (output.parent / "report.txt").read_text()
    return json.loads((output.parent / "report.json").read_text()), text


@pytest.mark.slow
def test_for_larq_compute_engine(tmp_path, capsys):
    pytest.importorskip("larq_compute_engine")
    model = randomise_batch_norm(cifar_resnet(20, num_classes=5))
    known = {"network": NAME, "preprocessing": DIGITS, "classes": tuple("abcde")}
    set_model_config(model, dataclasses.replace(get_model_config(model), **known))
    weights, output = tmp_path / "mine.safetensors", tmp_path / "device" / "net.tflite"
    save_weights(model, weights)
    command.main(["export", str(weights), f"--output={output}", "--uint8_input", "--images=5"])
    report, text = reports(output)
    assert text in capsys.readouterr().out
    assert "64-bit ARM" in text and "digits" in text
    file = output.read_bytes()
    assert report["sizes"]["file"] == len(file) <= 70_000
    assert 1_050_000 < report["sizes"]["full_precision"] < 1_150_000
    assert report["network"] == NAME and NAME in text
    assert report["operators"] == export.operators(file)
    assert report["operators"]["LceBconv2d"] == 18
    # By hand: the stem is 3 * 16 * 9 * 32 * 32, the classifier 64 * 5; of 1-bit convolutions
    # those at a stage's beginning have half the input channels.
    positions, stage = 32 * 32, 9 * 16 * 16 * 32 * 32
    assert report["operations"] == {
        "float": 3 * 16 * 9 * positions + 64 * 5,
        "one_bit": 6 * stage + 2 * (stage // 2 + 5 * stage),
    }
    assert report["comparison"]["images"] == 5 and report["comparison"]["equal"]
    assert "accuracy" not in report["comparison"]  # the network's classes are others
    assert len(report["latency"]["ms"]) == 2 and min(report["latency"]["ms"].values()) > 0


@pytest.mark.slow
def test_for_openvino_with_accuracy(tmp_path, capsys):
    pytest.importorskip("openvino")
    output = tmp_path / "net.xml"
    command.main(["export", NAME, f"--output={output}", "--form=binary", "--images=40"])
    report, text = reports(output)
    assert text in capsys.readouterr().out and "ARM" not in text
    assert report["form"] == "binary" and report["operators"]["BinaryConvolution"] == 18
    written = sum(output.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
    assert report["sizes"]["file"] == pytest.approx(written, rel=0.01)
    assert report["comparison"]["equal"]
    assert report["comparison"]["accuracy"]["file"] >= 0.95
    assert set(report["latency"]["ms"]) == {"file", "full precision"}


BAD = [
    (["digits/resnet21", "--output=net.xml"], "digits/resnet20_bireal_1w1a"),
    ([NAME, "--output="], "output must be a file that ends in .tflite or .xml, got ''"),
    ([NAME, "--output=net.xml", "--format=lce"], "ends in .tflite, got 'net.xml'"),
    ([NAME, "--output=setup.py/net.xml"], "setup.py is a file, not a folder"),
    ([NAME, "--output=net.xml", "--images=0"], "--images: must be a positive integer, got 0"),
    ([NAME, "--output=net.xml", "--weights="], "No such file or directory: ''"),
    ([NAME, "--output=net.xml", "--mean=0.5", "--std=1"], "omit mean and std"),
    ([NAME, "--output=net.xml", "--data_dir=setup.py"], "setup.py"),
]


@pytest.mark.parametrize("flags, message", BAD, ids=lambda value: str(value)[:60])
def test_errors_name_the_flag(flags, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(zoo_export.exporting, "export", lambda *_, **__: pytest.fail("exported"))
    with pytest.raises(SystemExit) as error:
        command.main(["export", *flags])
    assert message in str(error.value) + capsys.readouterr().err
    assert not (ROOT / "net.xml").exists()


def test_a_network_outside_the_zoo_is_compared_on_the_users_images(tmp_path):
    save_weights(cifar_resnet(20, num_classes=2), tmp_path / "mine.safetensors")
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(9):
            Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(tmp_path / f"images/{name}/{i}.png")
    flags = ["export", str(tmp_path / "mine.safetensors"), f"--output={tmp_path / 'net.xml'}"]
    flags += [f"--data_dir={tmp_path / 'images'}", "--validation_split=0.5"]
    for normalisation, expected in (
        (["--mean=0.5", "--std=0.1,0.2,0.3"], "test images of images"),
        ([], "noise"),  # the network has no preprocessing
    ):
        options = command._parser().parse_args([*flags, *normalisation])
        loaded = zoo_export._load(options)
        images, labels, words = zoo_export._test_images(loaded, options)
        assert words == expected
        preprocessing = get_model_config(loaded).preprocessing
        if normalisation:
            assert preprocessing == Preprocessing(32, (0.5,) * 3, (0.1, 0.2, 0.3))
            assert 0 < len(images) == len(labels) < 18


def test_a_failed_export_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    ov = pytest.importorskip("openvino")
    file = export.to_openvino(cifar_resnet(20, input_shape=(16, 16, 3)), form="int8")
    openvino.save(file, tmp_path / "net.xml")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save_model = ov.save_model

    def save_on_full_disk(model, path, **_):
        """OpenVINO does not report a full disk."""
        save_model(model, path)
        path.with_suffix(".bin").write_bytes(b"half")

    monkeypatch.setattr(ov, "save_model", save_on_full_disk)
    with pytest.raises(OSError, match="net.xml' cannot be written: Incorrect weights"):
        openvino.save(file, tmp_path / "net.xml")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    from irnet_tf.export import report

    known = {"images": 1, "largest_difference": 1.0, "agreement": 0.0, "traced_images": 0}
    monkeypatch.setattr(report, "compare", lambda *_, **__: {**known, "equal": False})
    model = cifar_resnet(20, input_shape=(16, 16, 3))
    images = np.zeros((1, 16, 16, 3), np.float32)
    with pytest.raises(ValueError, match="is not written: its outputs differ"):
        export.export(model, tmp_path / "net.xml", images, images_source="zeros", form="int8")
    assert not list(tmp_path.glob("net.*")) and (tmp_path / "report.txt").exists()
