"""A folder of a user's own images: layout, formats, unreadable files, splitting."""

import dataclasses
import os
import shutil

from irnet_tf import data
from irnet_tf.data import __main__ as command
from irnet_tf.preprocessing import CIFAR10
import numpy as np
from PIL import Image, ImageOps
import pytest
import tensorflow as tf

from tests.conftest import run_train
from tests.test_data import batches


def save(path, pixels=77, size=(30, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    color = pixels if mode == "L" else (pixels,) * len(mode)
    Image.new(mode, size, color).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Cats are dark, dogs are bright; sizes vary."""
    for split, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                path = tmp_path / split / name / f"{i}.{('jpg', 'png')[i % 2]}"
                save(path, 40 + 150 * label, (50 - 2 * i, 40 + 3 * i))
    return tmp_path


def only_images(split, preprocessing=CIFAR10):
    """All images in order, 0 to 255."""
    plain = dataclasses.replace(preprocessing, mean=(0,) * 3, std=(1 / 255,) * 3)
    parts = data.evaluation_batches(split, batch_size=100, preprocessing=plain)
    return np.concatenate([images for images, _ in parts])


@pytest.mark.parametrize("name", ["cifar10", "folder", None])
def test_folder(folder, name):
    if name is None:
        (folder / "test").rename(folder / "val")
    images = data.load(folder) if name is None else data.load(name, str(folder))
    assert images.class_names == ("cat", "dog") and images.num_classes == 2
    assert (images.train.num_examples, images.test.num_examples) == (12, 6)
    [(x, y)] = batches(images.train, augmentation="none", batch_size=12, epochs=1)
    assert x.shape == (12, 32, 32, 3)
    np.testing.assert_allclose(x[:, 5, 5, 0], (40 + 150 * y) / 255, atol=0.02)


def test_evaluation_is_the_preprocessing_of_each_image(folder):
    images = data.load(folder)
    cropped = dataclasses.replace(CIFAR10, crop=0.75, size=20)
    found = list(data.evaluation_batches(images.test, batch_size=1, preprocessing=cropped))
    assert len(found) == 6
    for i, (x, _) in enumerate(found):
        file, _ = images.test.example(i)
        np.testing.assert_allclose(x, cropped(tf.io.decode_image(file)[None]), atol=1e-4)


# ---- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("a.webp", "RGB", 77), ("a.bmp", "RGB", 77), ("a.tiff", "RGB", 77), ("a.gif", "L", 77),
        ("a.png", "L", 77), ("a.TIF", "L", 77), ("a.png", "RGBA", 201), ("a.png", "LA", 201),
        ("a.webp", "RGBA", 201), ("a.png", "P", 0), ("a.png", "I;16", 77),
    ],
)  # fmt: skip
def test_formats_with_transparency_on_white(folder, name, mode, expected):
    shutil.rmtree(folder / "train/cat")
    path = folder / "train/cat" / name
    if mode == "P":
        save(path, 0)
        Image.open(path).convert("P").save(path)
    elif mode == "I;16":
        path.parent.mkdir()
        Image.fromarray(np.full((30, 30), 77 * 257, np.uint16)).save(path)
    else:
        save(path, 77, mode=mode)  # alpha is 77, too: 77 / 255 * 77 + (1 - 77 / 255) * 255 = 201
    np.testing.assert_allclose(only_images(data.load(folder).train)[0], expected, atol=2)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
def test_the_exif_orientation_is_applied(folder, suffix, orientation):
    shutil.rmtree(folder / "train/cat")
    picture = Image.linear_gradient("L").resize((64, 48)).rotate(90).convert("RGB")
    picture.paste((255, 0, 0), (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x112] = orientation
    path = folder / f"train/cat/phone.{suffix}"
    path.parent.mkdir()
    options = {"lossless": True} if suffix == "webp" else {"quality": 95, "subsampling": 0}
    picture.save(path, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    expected = dataclasses.replace(CIFAR10, mean=(0,) * 3, std=(1 / 255,) * 3)(upright[None])
    np.testing.assert_allclose(only_images(data.load(folder).train)[:1], expected, atol=1.5)


def test_hidden_files_are_ignored_and_other_files_with_a_warning(folder):
    for hidden in ("train/cat/._0.png", "train/.DS_Store", "train/dog/.DS_Store"):
        (folder / hidden).write_bytes(b"x")
    (folder / "train/.cache").mkdir()
    (folder / "train/cat/notes.txt").write_text("x")
    (folder / "train/dog/raw.heic").write_bytes(b"x")
    (folder / "test/readme.md").write_text("x")
    (folder / "test/dog/more").mkdir()
    os.mkfifo(folder / "train/cat/x.png")  # reading it would block
    with pytest.warns(UserWarning) as caught:
        images = data.load(folder)
    assert (images.train.num_examples, images.test.num_examples) == (12, 6)
    [message] = [str(warning.message) for warning in caught]
    assert message.startswith(f"ignored 5 file(s) in {folder} that are not images (.jpg, .jpeg, ")
    for name in ("cat/notes.txt", "dog/raw.heic", "readme.md", "test/dog/more", "cat/x.png"):
        assert name in message


@pytest.mark.slow
def test_warnings_of_train_py_reach_the_user(folder):
    (folder / "train/cat/notes.txt").write_text("x")
    evaluated = "--mode=evaluate", "--model=digits/resnet20_bireal_1w1a", "--weights=pretrained"
    done = run_train(*evaluated, f"--data_dir={folder}", check=False)
    assert "ignored 1 file(s)" in done.stderr and "cat/notes.txt" in done.stderr
    assert "the network was trained on the classes 0, 1, 2, 3, 4 and 5 more" in done.stderr


# ---- unreadable images -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image, or of an unsupported format"),
        (b"no image", "not an image, or of an unsupported format"),
        ((10_000, 9_000), "too many pixels, the limit is 89 million"),
        ((20_000, 20_000), "too many pixels"),
    ],
)
def test_files_that_are_not_images_are_listed_by_load(folder, content, reason):
    path = folder / "train/dog/1.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:  # 90 KB as PNG, 270 MB when decoded
        Image.new("1", content).save(path)
    with pytest.raises(data.UnreadableImages, match=f"dog/1.png \\({reason}") as caught:
        data.load(folder)
    assert len(caught.value.images) == 1


@pytest.fixture
def truncated(folder):
    """Images with whole headers, of which TensorFlow and Pillow decode two each."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    names = ("train/cat/0.jpg", "train/dog/a.bmp", "test/cat/1.png", "test/dog/a.tif")
    for name in names:
        path = folder / name
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    return folder, names


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_image_that_cannot_be_decoded_stops_the_pipeline_and_all_are_listed(truncated, split):
    folder, names = truncated
    images = data.load(folder)
    with pytest.raises(data.UnreadableImages) as caught, data.report_unreadable_images(images):
        batches(getattr(images, split), batch_size=4)
    expected = [f"{folder / name} (damaged or truncated)" for name in names]
    assert sorted(caught.value.images) == sorted(expected)


def test_an_unreadable_image_is_listed_on_several_replicas_too(truncated):
    folder, _ = truncated
    images = data.load(folder)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])

    @tf.function
    def step(iterator):
        return strategy.run(lambda x, y: tf.reduce_sum(x), next(iterator))

    with pytest.raises(data.UnreadableImages), data.report_unreadable_images(images):
        parts = data.evaluation_batches(images.test, batch_size=4, preprocessing=CIFAR10)
        iterator = iter(strategy.experimental_distribute_dataset(parts))
        for _ in range(2):
            step(iterator)


def test_the_command_checks_a_folder(truncated, capsys):
    folder, names = truncated
    (folder / "train/cat/3.png").write_bytes(b"")
    with pytest.raises(SystemExit) as caught:
        command.main([str(folder)])
    assert "cat" in capsys.readouterr().out
    message = str(caught.value.code)
    assert message.startswith("5 image(s) cannot be read:\n") and message.count("\n") == 5
    assert all(f"{name} (damaged or truncated)" in message for name in names)
    for name in (*names, "train/cat/3.png"):
        (folder / name).unlink()
    command.main([str(folder)])
    assert capsys.readouterr().out.splitlines() == [
        "class  train   test", "cat        4      2", "dog        6      3",
        "every image can be read",
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="irnet_tf.data: .*none"):
        command.main([str(folder / "none")])


# ---- layout ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f / "test"), "one of `test` or `val`, found neither"),
        (lambda f: shutil.copytree(f / "test", f / "val"), "found both"),
        (lambda f: shutil.rmtree(f / "test/dog"), "lacks the classes \\['dog'\\]"),
        (lambda f: (f / "test/cow").mkdir(), "cow holds no image files \\(.jpg"),
        (lambda f: [shutil.rmtree(f / f"train/{c}") for c in ("cat", "dog")], "no class folders"),
        (lambda f: [shutil.rmtree(f / f"{s}/cat") for s in ("train", "test")], "one class, 'dog'"),
        (lambda f: os.rename(f / "train/cat", os.fsencode(f) + b"/train/c\xe4t"),
         r"class folder .*train/c\\xe4t .*not UTF-8; rename"),
    ],
)  # fmt: skip
def test_wrong_layouts_are_rejected(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        data.load("cifar10", str(folder))


def test_file_names_may_have_any_bytes(folder):
    os.rename(folder / "train/cat/1.png", os.fsencode(folder) + b"/train/cat/\xff\xfe.png")
    [(x, _)] = batches(data.load(folder).train, augmentation="none", batch_size=12, epochs=1)
    assert len(x) == 12
    (folder / "train/dog/1.png").write_bytes(b"")
    os.rename(folder / "train/dog/1.png", os.fsencode(folder) + b"/train/dog/\xff.png")
    with pytest.raises(data.UnreadableImages, match=r"train/dog/\\xff.png"):
        data.load(folder)


@pytest.mark.parametrize("name", ["digits", "cifar10", "imagenet2012"])
def test_a_data_dir_without_the_data_is_rejected_with_advice(tmp_path, name):
    for folder in (tmp_path / "none", ""):
        with pytest.raises(ValueError, match=f"data_dir '{folder}' is not a folder"):
            data.load(name, folder and str(folder))
    with pytest.raises(ValueError, match=f"{tmp_path}.* holds no .*train/CLASS"):
        data.load(name, str(tmp_path))


# ---- validation_split --------------------------------------------------------------------------


def contents(split):
    return {split.describe(i) for i in range(split.num_examples)}


@pytest.mark.parametrize("layout", ["train", "."])
def test_a_share_of_each_class_becomes_the_test_set(folder, layout):
    shutil.rmtree(folder / "test")
    root = folder if layout == "train" else folder / "train"
    images = data.load(root, validation_split=0.34)
    assert (images.train.num_examples, images.test.num_examples) == (8, 4)
    train, test = contents(images.train), contents(images.test)
    assert len(train | test) == 12
    assert sum("/cat/" in name for name in test) == 2
    assert contents(data.load(root, validation_split=0.34).test) == test
    for i in range(10, 16):
        save(folder / f"train/cat/{i}.png")
    more = data.load(root, validation_split=0.34)
    assert {n for n in contents(more.test) if "/dog/" in n} == {n for n in test if "/dog/" in n}
    assert not contents(more.test) & train, "new files move no training image to the test set"


def test_invalid_shares_are_rejected(folder):
    for share in (0.0, 1.0, -1, float("nan")):
        with pytest.raises(ValueError, match="validation_split must be between 0 and 1"):
            data.load(folder, validation_split=share)
    with pytest.raises(ValueError, match="validation_split is for .*has test; leave it out"):
        data.load(folder, validation_split=0.2)
    with pytest.raises(ValueError, match="validation_split is for a folder of your own images"):
        data.load("digits", validation_split=0.2)
    for name in ("test", "train/cat"):
        shutil.rmtree(folder / name)
    save(folder / "train/cat/1.png")
    with pytest.raises(ValueError, match="train/cat holds one image"):
        data.load(folder, validation_split=0.2)


# ---- fine-tuning -------------------------------------------------------------------------------


@pytest.mark.slow
def test_fine_tuning_and_prediction_see_the_same_images_and_classes(tmp_path):
    """On wide, rotated and transparent images."""
    import irnet_tf.weights
    import zoo

    exif = Image.Exif()
    exif[0x112] = 6
    for split in ("train", "test"):
        for i, name in enumerate(("ant", "bee", "cow")):
            (tmp_path / split / name).mkdir(parents=True)
            picture = Image.linear_gradient("L").resize((90, 60)).rotate(60 * i).convert("RGB")
            picture.save(tmp_path / split / name / "a.jpg", exif=exif)
            picture.putalpha(100)
            picture.save(tmp_path / split / name / "b.png")
    images = data.load(tmp_path)
    model = zoo.load("digits/resnet20_bireal_1w1a", class_names=images.class_names)
    preprocessing = zoo.info("digits/resnet20_bireal_1w1a").preprocessing
    [(x, _)] = data.evaluation_batches(images.test, batch_size=6, preprocessing=preprocessing)
    expected = tf.nn.softmax(model(x)).numpy()
    irnet_tf.weights.save_weights(model, tmp_path / "tuned.safetensors")
    found = zoo.predict(tmp_path / "tuned.safetensors", tmp_path / "test", top=3)
    for row, probabilities in zip(found, expected, strict=True):
        assert {name for name, _ in row} == {"ant", "bee", "cow"}
        np.testing.assert_allclose([dict(row)[n] for n in images.class_names], probabilities, 2e-4)
    arguments = {"batch_size": 6, "augmentation": "none", "preprocessing": preprocessing}
    [(z, order)] = data.training_batches(images.train, seed=0, epochs=1, **arguments)
    means = z.numpy()[np.argsort(order)].mean((1, 2, 3)).reshape(3, 2)
    expected = x.numpy().mean((1, 2, 3)).reshape(3, 2)
    np.testing.assert_allclose(np.sort(means), np.sort(expected), atol=0.02)
