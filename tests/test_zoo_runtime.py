"""Predictions of exported files, with and without TensorFlow."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
import subprocess
import sys

from irnet_runner import Runner, crop, read_image, resize
from irnet_tf import export
from irnet_tf.export.openvino import save
from irnet_tf.preprocessing import Preprocessing
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import zoo
from zoo import __main__ as command
from zoo.predict import read_image as tensorflow_reads

from tests.conftest import ROOT
from tests.test_export import small

pytest.importorskip("openvino")
NAME = "digits/resnet20_bireal_1w1a"


@pytest.fixture(scope="module")
def model():
    return zoo.load(NAME)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The digits network as files, and images of odd sizes."""
    folder = tmp_path_factory.mktemp("runner")
    for uint8 in (False, True):
        made = export.to_openvino(model, form="int8", uint8_input=uint8)
        save(made, folder / f"{'uint8' if uint8 else 'float'}.xml")
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(45, 61, 3), (32, 32, 3), (20, 9, 3)]):
        smooth = tf.image.resize(rng.uniform(0, 255, (5, 4, 3)), shape[:2]).numpy()
        Image.fromarray(smooth.astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("shape", [(45, 61), (61, 45), (32, 32), (9, 20), (300, 224)])
def test_images_are_prepared_as_in_evaluation(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for share in (1.0, 0.875):
        expected = Preprocessing(32, (0.0,) * 3, (1 / 255,) * 3, share)(pixels[None])[0]
        np.testing.assert_allclose(resize(crop(pixels, share), 32), expected, atol=1e-3)


def test_predictions_are_those_of_the_zoo(folder, model):
    paths = sorted(folder.glob("*.png"))
    expected = zoo.predict(model, paths, top=3)
    for batch_size in (1, 2):
        runner = Runner(folder / "float.xml", batch_size=batch_size)
        for ours, theirs in zip(runner.predict(paths, top=3), expected):
            assert [label for label, _ in ours] == [label for label, _ in theirs]
            assert [p for _, p in ours] == pytest.approx([p for _, p in theirs], abs=1e-4)
    assert zoo.predict(folder / "float.xml", folder, top=3) == Runner(folder / "float.xml").predict(
        paths, top=3
    )
    # Of the size that goes in, pixels are not rounded, and files that take pixels say the same.
    [ours], [theirs] = Runner(folder / "uint8.xml").predict(paths[1]), runner.predict(paths[1])
    assert dict(ours) == pytest.approx(dict(theirs), abs=1e-4)
    classes = {str(digit) for digit in range(10)}
    assert {label for label, _ in runner.predict(paths[0], top=None)[0]} == classes


def test_tflite_files_run_too(folder, model):
    pytest.importorskip("larq_compute_engine")
    (folder / "net.tflite").write_bytes(export.to_lce(model))
    paths = sorted(folder.glob("*.png"))
    ours, theirs = (
        Runner(folder / f"{name}").predict(paths) for name in ("net.tflite", "float.xml")
    )
    for a, b in zip(ours, theirs):
        assert [p for _, p in a] == pytest.approx([p for _, p in b], abs=1e-4)
    whole = (folder / "net.tflite").read_bytes()
    for length in (0, 20, 100, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 4):
        (folder / "bad.tflite").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="bad.tflite is damaged"):
            Runner(folder / "bad.tflite")


def test_grey_sixteen_bits_and_pillows(folder, tmp_path):
    """As the zoo takes them, which reads files with TensorFlow."""
    deep = np.linspace(0, 65535, 40 * 30).reshape(40, 30).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    pixels = read_image(tmp_path / "deep.png")
    np.testing.assert_array_equal(pixels, tensorflow_reads(tmp_path / "deep.png"))
    runner = Runner(folder / "float.xml")
    [expected] = runner.predict(tmp_path / "deep.png")
    grey = pixels[..., 0]
    with Image.open(tmp_path / "deep.png") as pillow:
        for form in (pillow, [pillow], grey, grey[..., None], [grey], pixels[None]):
            assert runner.predict(form) == [expected]
        assert zoo.predict(folder / "float.xml", pillow) == [expected]
        assert zoo.predict(NAME, pillow) == zoo.predict(NAME, tmp_path / "deep.png")


def test_tensors_are_images_as_arrays_are(folder):
    pixels = read_image(folder / "0.png")
    path = folder / "float.xml"
    runner = Runner(path)
    [expected] = runner.predict(pixels)
    for form in (tf.constant(pixels), tf.Variable(pixels), [tf.constant(pixels)]):
        assert runner.predict(form) == zoo.predict(path, form) == [expected]
    assert zoo.predict(path, [pixels[None], pixels]) == [expected] * 2
    paths = np.array([str(folder / "0.png")] * 2)
    assert runner.predict(paths) == zoo.predict(path, paths)
    with pytest.raises(ValueError, match="images must be numbers, got a tensor of strings"):
        zoo.predict(path, tf.constant(paths))
    with pytest.warns(UserWarning, match="multiply them by 255"):
        zoo.predict(path, pixels / 255.0)
    with pytest.raises(ValueError, match="not finite"):
        zoo.predict(path, np.full((9, 9, 3), np.nan))


def test_threads_take_turns(folder):
    runner = Runner(folder / "float.xml")
    images = np.random.default_rng(0).normal(size=(8, 1, 32, 32, 3)).astype(np.float32)
    expected = [runner.outputs(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(runner.outputs, [*images] * 50))
    for i, outputs in enumerate(found):
        np.testing.assert_array_equal(outputs, expected[i % 8])


def test_what_is_no_image_is_named_and_pillow_is_left_as_it_was(folder, tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("RGB", (9, 9)).save(tmp_path / "gif.png", format="GIF")
    for network in (Runner(folder / "float.xml"), folder / "float.xml"):
        predict = network.predict if isinstance(network, Runner) else partial(zoo.predict, network)
        with pytest.raises(ValueError, match="gif.png' cannot be read as an image: it is no"):
            predict(tmp_path / "gif.png")
    assert Image.MAX_IMAGE_PIXELS == limit is not None


def test_what_is_missing_is_named_with_the_cure(folder, tmp_path, monkeypatch):
    (tmp_path / "net.tflite").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "larq_compute_engine.mlir.python", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"net.tflite needs .*pip install irnet_tf\[deploy\]"):
        Runner(tmp_path / "net.tflite")
    with pytest.raises(SystemExit, match="zoo: .*float.xml needs openvino: pip install openvino"):
        command.main(["predict", str(folder / "float.xml"), str(folder / "0.png")])


def test_no_tensorflow_is_imported(folder):
    code = (
        "import sys, irnet_runner as r\n"
        f"print(r.Runner({str(folder / 'float.xml')!r}).predict({str(folder / '0.png')!r}))\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "print(loaded & {'tensorflow', 'larq', 'keras', 'tf_keras', 'irnet_tf', 'zoo'})"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "set()"


def test_command_line(folder):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "irnet_runner", *map(str, arguments)],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip

    process = run(folder / "float.xml", folder / "0.png", folder / "1.png")
    assert process.returncode == 0, process.stderr
    assert [line.split(":")[0] for line in process.stdout.splitlines()] == [
        str(folder / "0.png"), str(folder / "1.png")
    ]  # fmt: skip
    for bad in (
        [],
        [folder / "float.xml"],
        [folder / "none.xml", "x"],
        [folder / "float.xml", "x"],
    ):
        process = run(*bad)
        assert process.returncode == 1 and len(process.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"threads": 0}, "threads must be a positive integer, got 0"),
        ({"batch_size": True}, "batch_size must be a positive integer, got True"),
        ({"path": "net.onnx"}, "path must end in .xml or .tflite, got 'net.onnx'"),
    ],
)
def test_bad_arguments(folder, change, message):
    with pytest.raises(ValueError, match=message):
        Runner(**{"path": folder / "float.xml", **change})


def test_bad_images_and_files(folder, tmp_path):
    runner = Runner(folder / "float.xml")
    for images, message in (
        ([], "no images"),
        (np.zeros((4, 4, 2)), "images must be"),
        (3, "images must be paths or arrays"),
    ):
        with pytest.raises(ValueError, match=message):
            runner.predict(images)
    with pytest.raises(ValueError, match="top must be"):
        runner.predict(np.zeros((4, 4, 3)), top=0)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="a.png' cannot be read as an image"):
        runner.predict(tmp_path / "a.png")
    (tmp_path / "a.xml").write_bytes((folder / "float.xml").read_bytes())
    with pytest.raises(ValueError, match="a.xml cannot be read, with a.bin beside it"):
        Runner(tmp_path / "a.xml")


def test_networks_that_do_not_describe_themselves(tmp_path):
    model = small()
    save(export.to_openvino(model, form="int8"), tmp_path / "net.xml")
    runner = Runner(tmp_path / "net.xml")
    images = np.random.default_rng(0).standard_normal((2, 6, 6, 32)).astype(np.float32)
    expected = tf.nn.softmax(model.predict(images, verbose=0)).numpy()
    for found, row in zip(runner.predict(images, top=None), expected):
        assert dict(found) == pytest.approx({str(i): p for i, p in enumerate(row)}, abs=1e-5)
    with pytest.raises(ValueError, match=r"does not say how .* as \[6, 6, 32\], got \[7, 6, 32\]"):
        runner.predict(np.zeros((7, 6, 32)))
