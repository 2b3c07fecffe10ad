"""Predictions of exported files, with and without TensorFlow."""

from concurrent.futures import ThreadPoolExecutor
import json
import re
import shutil
import subprocess
import sys

from irnet_tf import export
from irnet_tf.export.openvino import save
from irnet_tf.preprocessing import Preprocessing
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import zoo
from zoo import __main__ as command
from zoo.runtime import Runner, crop, resize

from tests.conftest import ROOT

pytest.importorskip("openvino")
NAME = "digits/resnet20_bireal_1w1a"


@pytest.fixture(scope="module")
def model():
    return zoo.load(NAME)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The digits network as files, and images of odd sizes."""
    folder = tmp_path_factory.mktemp("runtime")
    for uint8 in (False, True):
        exported = export.to_openvino(model, form="int8", uint8_input=uint8)
        save(exported, folder / f"{'uint8' if uint8 else 'float'}.xml")
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(45, 61, 3), (32, 32, 3), (20, 9, 3)]):
        smooth = tf.image.resize(rng.uniform(0, 255, (5, 4, 3)), shape[:2]).numpy()
        Image.fromarray(smooth.astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("shape", [(45, 61), (61, 45), (32, 32), (9, 20), (300, 224)])
def test_preprocessing_equals_that_of_evaluation(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for share in (1.0, 0.875):
        expected = Preprocessing(32, (0.0,) * 3, (1 / 255,) * 3, share)(pixels[None])[0]
        np.testing.assert_allclose(resize(crop(pixels, share), 32), expected, atol=1e-3)


def test_predictions_are_those_of_the_zoo(folder, model):
    paths = sorted(folder.glob("*.png"))
    expected = zoo.predict(model, paths, top=3)
    runner = Runner(folder / "float.xml")
    for ours, theirs in zip(runner.predict(folder, top=3), expected, strict=True):
        assert [label for label, _ in ours] == [label for label, _ in theirs]
        assert [p for _, p in ours] == pytest.approx([p for _, p in theirs], abs=1e-4)
    assert zoo.predict(folder / "float.xml", folder, top=3) == runner.predict(paths, top=3)
    [ours], [theirs] = Runner(folder / "uint8.xml").predict(paths[1]), runner.predict(paths[1])
    assert dict(ours) == pytest.approx(dict(theirs), abs=1e-4)
    classes = {str(digit) for digit in range(10)}
    assert {label for label, _ in runner.predict(paths[0], top=None)[0]} == classes


def test_tflite_files(folder, model):
    pytest.importorskip("larq_compute_engine")
    (folder / "net.tflite").write_bytes(export.to_lce(model))
    paths = sorted(folder.glob("*.png"))
    ours, theirs = (Runner(folder / name).predict(paths) for name in ("net.tflite", "float.xml"))
    for a, b in zip(ours, theirs, strict=True):
        assert [p for _, p in a] == pytest.approx([p for _, p in b], abs=1e-4)
    whole = (folder / "net.tflite").read_bytes()
    for length in (0, 20, 1000, len(whole) // 2, len(whole) - 4):
        (folder / "bad.tflite").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="bad.tflite is damaged"):
            Runner(folder / "bad.tflite")
    (folder / "bad.tflite").unlink()


def test_threads_take_turns(folder):
    runner = Runner(folder / "float.xml")
    images = np.random.default_rng(0).normal(size=(8, 1, 32, 32, 3)).astype(np.float32)
    expected = [runner.outputs(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(runner.outputs, [*images] * 50))
    for i, outputs in enumerate(found):
        np.testing.assert_array_equal(outputs, expected[i % 8])


def copy_of(folder, to):
    for suffix in (".xml", ".bin"):
        shutil.copyfile(folder / f"float{suffix}", to / f"net{suffix}")
    return to / "net.xml"


def test_the_bin_file_must_be_that_of_the_xml_file(folder, tmp_path):
    path = copy_of(folder, tmp_path)
    content = bytearray(path.with_suffix(".bin").read_bytes())
    content[len(content) // 2] ^= 1
    for other in (bytes(content), (folder / "uint8.bin").read_bytes() + b"\0"):
        path.with_suffix(".bin").write_bytes(other)
        with pytest.raises(ValueError, match=r"net.bin has not the SHA-256 \w{64}"):
            Runner(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(FileNotFoundError, match="net.bin"):
        Runner(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output", None),
        ("output", "scores"),
        ("uint8_input", "no"),
        ("classes", ["a", 3]),
        ("preprocessing", []),
        ("preprocessing.size", 10**9),
        ("preprocessing.mean", [0, 0]),
        ("preprocessing.std", "0.5"),
        ("preprocessing.crop", "1"),
        ("preprocessing.crop", None),
    ],
)
def test_missing_and_mistyped_facts_are_named(folder, tmp_path, name, value):
    path = copy_of(folder, tmp_path)
    text = path.read_text()
    [encoded] = re.findall(r'<irnet_tf value="(.*?)"', text)
    facts = json.loads(encoded.replace("&quot;", '"'))
    part, _, key = name.rpartition(".")
    (facts[part] if part else facts)[key] = value
    path.write_text(text.replace(encoded, json.dumps(facts).replace('"', "&quot;")))
    with pytest.raises(ValueError, match=f"net.xml: {name} must be"):
        Runner(path)


def test_missing_packages_are_named_with_the_cure(folder, tmp_path, monkeypatch):
    (tmp_path / "net.tflite").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "larq_compute_engine.mlir.python", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"net.tflite needs .*pip install irnet_tf\[deploy\]"):
        Runner(tmp_path / "net.tflite")
    with pytest.raises(SystemExit, match="zoo: .*float.xml needs openvino: pip install openvino"):
        command.main(["predict", str(folder / "float.xml"), str(folder / "0.png")])


def test_no_tensorflow_is_imported(folder):
    code = (
        "import sys, zoo.runtime as r\n"
        f"print(r.Runner({str(folder / 'float.xml')!r}).predict({str(folder / '0.png')!r}))\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "print(loaded & {'tensorflow', 'larq', 'keras', 'tf_keras', 'irnet_tf'})"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "set()"


def test_the_command(folder, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "zoo.runtime", *map(str, arguments)],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip

    (tmp_path / "bad.png").write_bytes(b"no image")
    process = run(folder / "float.xml", tmp_path / "bad.png", folder, "--top=1")
    assert process.returncode == 1
    files = [line for line in process.stdout.splitlines() if not line.startswith(" ")]
    assert files == sorted(map(str, folder.glob("*.png")))
    [line] = process.stderr.splitlines()
    assert line.startswith("not read: ") and "bad.png" in line
    process = run("--help")
    assert process.returncode == 0 and process.stderr == ""
    for bad in ((folder / "none.xml", "x"), (folder / "float.xml", folder, "--top=0")):
        process = run(*bad)
        assert process.returncode == 1 and len(process.stderr.splitlines()) == 1


def test_bad_arguments(folder):
    with pytest.raises(ValueError, match="threads must be positive, got 0"):
        Runner(folder / "float.xml", threads=0)
    with pytest.raises(ValueError, match="path must end in .xml or .tflite, got 'net.onnx'"):
        Runner("net.onnx")
