"""A folder of a user's own images: what is taken, what is refused, and in which words."""

import dataclasses
import logging
import os

from irnet_tf import data
from irnet_tf.preprocessing import CIFAR10
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from tests.test_data import batches, joined


@pytest.fixture
def folder(tmp_path, rng):
    for split, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                size = (40 + 3 * i, 50 - 2 * i)
                pixels = np.full((*size, 3), 40 + 150 * label, np.uint8)
                suffix = ("jpg", "png")[i % 2]
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.{suffix}")
    return tmp_path


def test_folder(folder):
    images = data.load("cifar10", str(folder))
    assert images.class_names == ("cat", "dog")
    assert (images.train.num_examples, images.test.num_examples) == (12, 6)
    [(x, y)] = batches(images.train, augmentation="none", batch_size=12, epochs=1)
    assert x.shape == (12, 32, 32, 3)
    np.testing.assert_allclose(x[:, 5, 5, 0], (40 + 150 * y) / 255, atol=0.02)


def test_folder_takes_grey_transparent_and_palette_images(folder):
    Image.new("L", (30, 30), 77).save(folder / "train/cat/grey.png")
    Image.new("RGBA", (30, 30), (77, 77, 77, 0)).save(folder / "train/cat/clear.png")
    Image.new("P", (30, 30)).save(folder / "train/cat/palette.png")
    images = data.load("cifar10", str(folder))
    assert joined(batches(images.train, batch_size=15, epochs=1))[0].shape == (15, 32, 32, 3)


def test_val_may_stand_for_test(folder):
    (folder / "test").rename(folder / "val")
    assert data.load("cifar10", str(folder)).test.num_examples == 6


def remove(path):
    for file in sorted(path.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    path.rmdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: remove(f / "test"), "one of `test` or `val`.*found neither"),
        (lambda f: remove(f / "test/dog"), "only in train: \\['dog'\\]"),
        (lambda f: (f / "test/cow").mkdir(), "no .jpg, .jpeg, .png files .*cow"),
        (lambda f: (remove(f / "train/cat"), remove(f / "train/dog")), "no class folders"),
        (lambda f: (f / "train/dog/1.png").write_bytes(b"no image"), "cannot read.*dog/1.png"),
        (lambda f: (f / "train/dog/0.jpg").write_bytes(b""), "cannot read.*dog/0.jpg"),
    ],
)
def test_damaged_folders_are_named(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        data.load("cifar10", str(folder))


def test_unknown_name_is_refused_beside_a_folder_too(folder):
    with pytest.raises(ValueError, match="'cifra10'; did you mean cifar10?"):
        data.load("cifra10", str(folder))


@pytest.mark.parametrize("augmentation", ["none", "shift"])
def test_a_folder_is_normalised_as_its_network_expects(folder, augmentation):
    images = data.load("cifar10", str(folder))
    [(plain, labels)] = batches(images.train, augmentation=augmentation, batch_size=12, epochs=1)
    [(x, _)] = batches(
        images.train, augmentation=augmentation, batch_size=12, epochs=1, preprocessing=CIFAR10
    )
    np.testing.assert_allclose(x, (plain - CIFAR10.mean) / CIFAR10.std, atol=1e-5)
    [(y, order)] = data.evaluation_batches(images.train, batch_size=12, preprocessing=CIFAR10)
    expected = (np.array([40, 190])[order][:, None] / 255 - CIFAR10.mean) / CIFAR10.std
    np.testing.assert_allclose(y[:, 5, 5], expected, atol=0.1)


def test_evaluation_is_what_the_preprocessing_makes_of_an_image(folder):
    images = data.load("cifar10", str(folder))
    cropped = dataclasses.replace(CIFAR10, crop=0.75, size=20)
    i = -1
    for i, (x, _) in enumerate(
        data.evaluation_batches(images.test, batch_size=1, preprocessing=cropped)
    ):
        file, _ = images.test.example(i)
        np.testing.assert_allclose(x, cropped(tf.io.decode_image(file)[None]), atol=1e-4)
    assert i == 5


# ---- what is given is used, or refused ---------------------------------------------------------


def test_missing_and_empty_data_dir(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        data.load("cifar10", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="is empty"):
        data.load("cifar10", str(tmp_path))
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="tfds build cifar10"):
        data.load("cifar10", str(tmp_path))

    with pytest.raises(ValueError, match="data_dir is empty"):
        data.load("digits", "")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20)).save(path)


@pytest.mark.parametrize("name", ["digits", "cifar10", "imagenet2012"])
def test_a_folder_that_does_not_fit_is_refused_with_advice(tmp_path, name):
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path}.* holds no .*train/CLASS"):
        data.load(name, str(tmp_path))
    for label in ("cat", "dog"):
        picture(tmp_path / label / "1.jpg")
    with pytest.raises(ValueError, match="images in cat, dog: .*validation_split=0.2"):
        data.load(name, str(tmp_path))
    picture(tmp_path / "Train" / "cat" / "1.jpg")
    with pytest.raises(ValueError, match="'Train' must be called 'train'"):
        data.load(name, str(tmp_path))


def test_one_class_is_refused(folder):
    remove(folder / "train/cat")
    remove(folder / "test/cat")
    with pytest.raises(ValueError, match="holds one class, 'dog'.*two classes at least"):
        data.load("digits", str(folder))


def test_ignored_files_are_counted_and_named(folder, caplog):
    (folder / "train/cat/notes.txt").write_text("x")
    (folder / "train/cat/.hidden").write_text("x")
    (folder / "train/dog/raw.webp").write_bytes(b"x")
    (folder / "test/readme.md").write_text("x")
    (folder / "test/dog/more").mkdir()
    with caplog.at_level(logging.WARNING):
        images = data.load("digits", str(folder))
    assert (images.train.num_examples, images.test.num_examples) == (12, 6)
    [message] = caplog.messages
    assert message.startswith(f"ignored 4 thing(s) in {folder} that are no .jpg, .jpeg, .png files")
    for name in ("train/cat/notes.txt", "train/dog/raw.webp", "test/readme.md", "test/dog/more"):
        assert str(folder / name) in message


def test_a_pipe_that_is_called_an_image_is_not_waited_for(folder, caplog):
    os.mkfifo(folder / "train/cat/x.png")
    with caplog.at_level(logging.WARNING):
        assert data.load("digits", str(folder)).train.num_examples == 12
    assert "ignored 1 thing(s)" in caplog.text and "train/cat/x.png" in caplog.text


def test_names_of_files_may_have_any_bytes(folder):
    os.rename(folder / "train/cat/1.png", os.fsencode(folder) + b"/train/cat/\xff\xfe.png")
    images = data.load("digits", str(folder))
    [(x, _)] = batches(images.train, augmentation="none", batch_size=12, epochs=1)
    assert len(x) == 12
    (folder / "train/dog/1.png").write_bytes(b"")
    os.rename(folder / "train/dog/1.png", os.fsencode(folder) + b"/train/dog/\xff.png")
    with pytest.raises(data.UnreadableImages, match=r"train/dog/\\xff.png"):
        data.load("digits", str(folder))


def test_names_of_classes_are_utf8(folder):
    os.rename(folder / "train/cat", os.fsencode(folder) + b"/train/c\xe4t")
    with pytest.raises(ValueError, match=r"class folder .*train/c\\xe4t .*not UTF-8; rename"):
        data.load("digits", str(folder))


def test_content_that_cannot_be_decoded_is_told_at_once(folder):
    Image.new("RGB", (20, 20)).save(folder / "train/cat/1.png", "WEBP")
    with pytest.raises(data.UnreadableImages, match="cat/1.png .its content is WEBP, not JPEG"):
        data.load("digits", str(folder))


def test_huge_images_are_refused_or_skipped_and_never_decoded(folder, monkeypatch):
    """Of 10,000 x 9,000 black pixels, 90 KB as PNG; 270 MB once decoded."""
    huge = folder / "train/cat/1.png"
    Image.new("L", (10_000, 9_000)).save(huge, compress_level=9)
    with pytest.raises(
        data.UnreadableImages, match="cat/1.png .10000 x 9000 pixels, where 89 million are the"
    ) as caught:
        data.load("digits", str(folder))
    assert len(caught.value.images) == 1
    images = data.load("digits", str(folder), unreadable="skip")
    index = [i for i in range(12) if "cat/1.png" in images.train.describe(i)]
    Image.new("L", (30, 30)).save(huge)  # so that it would be seen if it were opened
    [(x, y)] = batches(images.train, augmentation="none", batch_size=12, epochs=1)
    assert len(x) == 12 and (x[:, 5, 5, 0] > 0.1).all(), "another one stands in"
    assert images.train.skipped() == index


def test_skipped_images_are_counted(folder, caplog):
    (folder / "train/dog/1.png").write_bytes(b"no image")
    (folder / "test/cat/0.jpg").write_bytes((folder / "test/cat/0.jpg").read_bytes()[:300])
    images = data.load("digits", str(folder), unreadable="skip")
    assert images.train.skipped() == images.test.skipped() == []
    parts = batches(images.train, augmentation="none", batch_size=4, epochs=2)
    assert [len(y) for _, y in parts] == [4] * 6
    tested = sum(len(y) for _, y in data.evaluation_batches(
        images.test, batch_size=4, preprocessing=CIFAR10
    ))  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert len(images.train.skipped()) == len(images.test.skipped()) == 1
        assert len(images.train.skipped()) == 1
    assert tested == 5 and len(caplog.messages) == 2, "each is told once"
    assert "train/dog/1.png" in caplog.messages[0] and "test/cat/0.jpg" in caplog.messages[1]


# ---- no part to test on ------------------------------------------------------------------------


def contents(split):
    return {split.describe(i) for i in range(split.num_examples)}


@pytest.mark.parametrize("layout", ["train", "."])
def test_a_share_of_each_class_can_be_tested_on(folder, layout):
    remove(folder / "test")
    root = folder if layout == "train" else folder / "train"
    images = data.load("digits", str(root), validation_split=0.34)
    assert (images.train.num_examples, images.test.num_examples) == (8, 4)
    train, test = contents(images.train), contents(images.test)
    assert len(train | test) == 12
    assert sum("/cat/" in name for name in test) == 2
    again = data.load("digits", str(root), validation_split=0.34)
    assert contents(again.test) == test
    for i in range(10, 16):
        picture(folder / f"train/cat/{i}.png")
    more = data.load("digits", str(root), validation_split=0.34)
    assert {n for n in contents(more.test) if "/dog/" in n} == {n for n in test if "/dog/" in n}
    # What was tested on stays so, or is crowded out by new files: nothing else changes sides.
    old = {n for n in contents(more.test) if n in train}
    assert not old


@pytest.mark.parametrize("share", [0.0, 1.0, -1, float("nan")])
def test_bad_shares_are_refused(folder, share):
    with pytest.raises(ValueError, match="validation_split must be above 0 and below 1"):
        data.load("digits", str(folder), validation_split=share)


def test_a_share_is_refused_where_there_is_a_part_to_test_on(folder):
    with pytest.raises(ValueError, match="validation_split is for .*has test; leave it out"):
        data.load("digits", str(folder), validation_split=0.2)
    with pytest.raises(ValueError, match="validation_split is for a folder of images of your own"):
        data.load("digits", validation_split=0.2)


def test_a_class_of_one_image_cannot_be_divided(folder):
    remove(folder / "test")
    remove(folder / "train/cat")
    picture(folder / "train/cat/1.png")
    with pytest.raises(ValueError, match="train/cat holds one image"):
        data.load("digits", str(folder), validation_split=0.2)
