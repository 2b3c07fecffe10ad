"""Predictions of images in every form, from one thread and many."""

from concurrent.futures import ThreadPoolExecutor
import warnings

from irnet_tf import data
from irnet_tf.model_config import ModelConfig, get_model_config, set_model_config
from irnet_tf.preprocessing import DIGITS
from irnet_tf.weights import save_weights
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import zoo
from zoo import images as image_module
from zoo.images import image_files, read_image

NAME = "digits/resnet20_bireal_1w1a"


@pytest.fixture(scope="module")
def model():
    return zoo.load(NAME)


@pytest.fixture(scope="module")
def digits():
    """(images, labels): the first 40 for testing, as they are."""
    images, labels = data.load("digits").test.read(tf.range(40, dtype=tf.int64))
    return images.numpy(), labels.numpy()


@pytest.fixture
def folder(tmp_path, digits):
    for i, image in enumerate(digits[0][:5]):
        (tmp_path / f"class{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"class{i % 2}" / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_every_form_of_images_and_networks_gives_the_same(model, digits, folder):
    images, labels = digits
    expected = zoo.predict(model, images[:5])
    assert [best[0][0] for best in expected] == [str(label) for label in labels[:5]]
    logits = model(DIGITS.normalise(images[:5]), training=False)
    probabilities = tf.nn.softmax(logits).numpy()
    for best, row in zip(expected, probabilities):
        assert len(best) == 5
        assert [p for _, p in best] == pytest.approx(sorted(row, reverse=True)[:5], abs=1e-5)
        assert all(p == pytest.approx(row[int(name)], abs=1e-5) for name, p in best)

    files = [folder / f"class{i % 2}" / f"{i}.png" for i in range(5)]
    assert image_files(folder) == sorted(files)
    grey = images[:5, ..., :1]
    assert np.array_equal(images[:5], grey.repeat(3, -1))
    pillow = [Image.fromarray(image) for image in images[:5]]
    for form in (
        *(files, list(map(str, files)), list(images[:5]), images[:5].astype("float32")),
        *(tf.constant(images[:5]), grey, list(grey[..., 0]), pillow, [images[:4], pillow[4]]),
    ):
        assert zoo.predict(model, form) == expected
    assert zoo.predict(model, folder) == [expected[int(file.stem)] for file in sorted(files)]
    palette = pillow[2].convert("P")  # its array holds indices, not colours
    shipped = f"{zoo.__path__[0]}/weights/digits_resnet20_bireal_1w1a.safetensors"
    raw = zoo.load(NAME, include_preprocessing=True)
    for network, form in ((NAME, files[2]), (shipped, images[2]), (raw, images[2]), (raw, palette)):
        [[(name, _)]] = zoo.predict(network, form, top=1)
        assert name == str(labels[2])
    assert len(zoo.predict(model, (image for image in images[:37]))) == 37


def test_warnings_about_values_that_are_not_pixels(model, digits):
    images = digits[0][:2]
    wrong = {
        "from 0 to 1, .* multiply": images / np.float32(255),
        "pass them unnormalised": DIGITS.normalise(images),
        "from 0 to 256": np.full((2, 8, 8, 3), 256) * [0, 1, 1],
        "multiply": images > 127,
    }
    for match, form in wrong.items():
        for look in (zoo.predict, lambda model, form: zoo.preprocess_input(form, model)):
            with pytest.warns(UserWarning, match=match):
                look(model, form)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kinds = (images.astype(kind) for kind in ("int64", "uint32", "float16"))
        for form in (images, *kinds, images * 0.5, np.zeros((9, 9, 3))):
            zoo.predict(model, form)


def test_in_a_pipeline(digits):
    images = digits[0][:4]
    found = tf.data.Dataset.from_tensors(images).map(lambda x: zoo.preprocess_input(x, NAME))
    np.testing.assert_array_equal(next(iter(found)), zoo.preprocess_input(images, NAME))


@pytest.mark.slow
def test_a_model_with_its_preprocessing_takes_images_of_any_size(model, digits, tmp_path):
    images, labels = digits
    raw = zoo.load(NAME, include_preprocessing=True)
    small = raw.predict(images, verbose=0)
    large = raw.predict(images.repeat(3, 1).repeat(3, 2)[:, :, 2:-2], verbose=0)
    np.testing.assert_allclose(small, model(DIGITS.normalise(images)), rtol=1e-4, atol=1e-3)
    assert np.mean(large.argmax(1) == labels) > 0.9
    raw.save(tmp_path / "raw.keras")
    again = tf.keras.models.load_model(tmp_path / "raw.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), small)
    path = tmp_path / "network.safetensors"
    save_weights(raw, path)
    assert get_model_config(zoo.load(path)).results == get_model_config(model).results
    raw.layers[-1].get_layer("linear").bias.assign_add(tf.ones(10))
    save_weights(raw, path)
    assert get_model_config(zoo.load(path)).results is None


def test_decoding(model):
    logits = np.log([[0.2] + [0.1] * 7 + [0.06, 0.04]])
    [best] = zoo.decode_predictions(logits, NAME, top=None)
    assert [name for name, _ in best] == list("0123456789")
    assert [p for _, p in best] == pytest.approx([0.2] + [0.1] * 7 + [0.06, 0.04])
    assert zoo.decode_predictions(logits, model, top=2) == [best[:2]]
    with pytest.raises(ValueError, match="3 predictions per image do not match 10 classes"):
        zoo.decode_predictions(np.zeros((1, 3)), NAME)
    for top in (0, -1, 1.5):
        with pytest.raises(ValueError, match="top must be"):
            zoo.decode_predictions(logits, NAME, top=top)


def test_predictions_from_many_threads(model):
    """Keras's eager kernels crash or compute wrong results."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 30, 3), np.uint8) for _ in range(8)]
    expected = [zoo.predict(model, image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: zoo.predict(model, images[i % 8]), range(200)))
    assert found == expected * 25


def test_orientation_transparency_and_16_bits(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10, :15] = 255  # top left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(pixels, -1))
    alpha = np.dstack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), [0, 255, 0, 51], np.uint8)])
    Image.fromarray(alpha, "RGBA").save(tmp_path / "alpha.png")
    found = read_image(tmp_path / "alpha.png")
    np.testing.assert_array_equal(found[0], [[255] * 3, [0] * 3, [255] * 3, [204] * 3])
    deep = np.linspace(0, 65535, 40 * 30).reshape(40, 30).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = tf.io.decode_png((tmp_path / "deep.png").read_bytes(), 3)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), expected)


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tiff", "gif", "png", "jpg"])
def test_formats(model, digits, tmp_path, suffix):
    image = Image.fromarray(digits[0][0])
    image.save(tmp_path / f"digit.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    (tmp_path / "._digit.png").write_bytes(b"hidden")
    [[(name, _)]] = zoo.predict(model, tmp_path, top=1)
    assert name == str(digits[1][0])
    if suffix != "jpg":
        np.testing.assert_array_equal(read_image(tmp_path / f"digit.{suffix}"), digits[0][0])


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_not_images(model, tmp_path, content):
    bad = tmp_path / "bad.png"
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad.png' cannot be read as an image"):
        zoo.predict(model, bad)


def test_values_that_are_not_images(model, tmp_path, monkeypatch):
    shapes = (2,), (1, 0, 5, 3), (2, 2, 4), (5, 28, 28)
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    for images in (*map(np.zeros, shapes), 3, b"image", tf.constant(["a.png"])[0]):
        with pytest.raises(ValueError, match="images must be"):
            zoo.predict(model, images)
    for images in (pixels[0].tolist(), [("image", 3)], tf.data.Dataset.from_tensors((pixels, [1]))):
        with pytest.raises(ValueError, match="images must be paths or arrays.*labels out"):
            zoo.predict(model, images)
    for images, match in (
        (np.full((2, 2, 3), np.nan), "not finite"),
        ([], "images is empty"),
        (tmp_path, "has no image files"),
        ("/dev/zero", "not a regular file"),
    ):
        with pytest.raises(ValueError, match=match):
            zoo.predict(model, images)
    with pytest.raises(FileNotFoundError):
        zoo.predict(model, tmp_path / "x.png")
    Image.new("RGB", (60, 50)).save(tmp_path / "large.png")
    inputs = tf.keras.layers.Input((32, 32, 3))
    with pytest.raises(ValueError, match="has no preprocessing"):
        zoo.predict(tf.keras.Model(inputs, inputs), tmp_path / "large.png")
    with pytest.raises(ValueError, match="no classifier"):
        zoo.predict(zoo.load(NAME, None, include_top=False), tmp_path / "large.png")
    monkeypatch.setattr(image_module, "MAX_PIXELS", 2999)
    with pytest.raises(ValueError, match="60 x 50 pixels"):
        zoo.predict(model, tmp_path / "large.png")


def test_a_model_config_of_your_own(digits):
    inputs = tf.keras.layers.Input((32, 32, 3))
    x = tf.keras.layers.GlobalAveragePooling2D()(inputs)
    config = ModelConfig("mine", {}, classes=("r", "g", "b"), preprocessing=DIGITS, classifier="c",
                       output="probabilities")  # fmt: skip
    model = set_model_config(tf.keras.Model(inputs, tf.keras.layers.Softmax()(x)), config)
    red = np.zeros((7, 9, 3), np.uint8)
    red[..., 0] = 255
    [[(name, probability), *_]] = zoo.predict(model, red)
    assert name == "r"
    assert probability == pytest.approx(np.e**1 / (np.e + 2 / np.e), rel=1e-5)
