"""ImageNet as TFDS prepares it, and images of varied sizes in general."""

import dataclasses
import io
import logging
import os
import struct
import time

from irnet_tf import data
from irnet_tf.data import augment
from irnet_tf.preprocessing import IMAGENET, Preprocessing
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

SIZES = [(90, 120), (120, 90), (64, 64), (75, 200), (150, 100), (33, 47)]
MEAN, STD = np.array(IMAGENET.mean), np.array(IMAGENET.std)
PLAIN = Preprocessing(32, (0.0,) * 3, (1.0,) * 3, crop=224 / 256)  # from 0 ... 255 to 0 ... 1


def coordinates(height, width):
    """A smooth picture whose red is x, whose green is y and whose blue is neither."""
    y, x = np.mgrid[0:height, 0:width]
    channels = 255 * x / (width - 1), 255 * y / (height - 1), 100 + 0 * x
    return Image.fromarray(np.rint(np.stack(channels, -1)).astype(np.uint8))


def encoded(picture, kind="JPEG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 97, "subsampling": 0} if kind == "JPEG" else {}))
    return file.getvalue()


def pictures():
    """Files of varied sizes, among them a grey and a CMYK JPEG and a PNG in JPEG's clothes."""
    files = [encoded(coordinates(*SIZES[i % len(SIZES)])) for i in range(21)]
    files.append(encoded(coordinates(80, 100).convert("L")))
    files.append(encoded(coordinates(80, 100).convert("CMYK")))
    files.append(encoded(coordinates(80, 100), "PNG"))
    return files


def write_imagenet(folder, files, shards=3):
    """`imagenet2012/VERSION` under `folder`, made by TFDS's own writer; example i has label i."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("imagenet2012", data_dir=folder)

    def examples(self, dl_manager):
        del self, dl_manager
        rows = [
            (i, {"image": file, "label": i, "file_name": f"n{i:08}_1.JPEG"})
            for i, file in enumerate(files)
        ]
        return {"train": iter(rows), "validation": iter(rows)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(builder), "_split_generators", examples)
        config = tfds.download.DownloadConfig(num_shards=shards)
        builder.download_and_prepare(download_config=config)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_imagenet(tmp_path_factory.mktemp("imagenet"), pictures())


@pytest.fixture(scope="module")
def imagenet(folder):
    return data.load("imagenet2012", str(folder))


def shards(folder, split="train"):
    return sorted((folder / "imagenet2012").glob(f"*/*{split}.tfrecord*"))


def training(split, **changes):
    arguments = {
        "batch_size": 8, "preprocessing": PLAIN, "augmentation": "imagenet", "seed": 3,
        "epochs": 2, **changes,
    }  # fmt: skip
    return [(x.numpy(), y.numpy()) for x, y in data.training_batches(split, **arguments)]


def evaluation(split, **changes):
    arguments = {"batch_size": 10, "preprocessing": PLAIN, **changes}
    return [(x.numpy(), y.numpy()) for x, y in data.evaluation_batches(split, **arguments)]


def joined(parts):
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def pil_evaluation_crop(file, size=32):
    """The shorter side made 8 / 7 of `size`, and the middle cut out."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    scale = size * 8 / 7 / min(image.size)
    width, height = (size * 8 / 7 if s == min(image.size) else s * scale for s in image.size)
    image = image.resize((round(width), round(height)), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)), np.float32)


# ---- reading -----------------------------------------------------------------------------------


def test_every_record_is_read_as_it_was_written(imagenet, folder):
    assert len(shards(folder)) == 3
    assert imagenet.name == "ImageNet" and imagenet.num_classes == 1000
    assert imagenet.class_names[0] == "n01440764"
    assert imagenet.train.num_examples == imagenet.test.num_examples == 24
    files, seen = pictures(), []
    for i in range(24):
        file, label = imagenet.train.example(i)
        assert file.numpy() == files[int(label)]
        assert imagenet.train.describe(i).startswith(f"n{int(label):08}_1.JPEG (record ")
        seen.append(int(label))
    assert sorted(seen) == list(range(24))


def test_evaluation_sees_what_pil_shows(imagenet):
    """Grey, CMYK and PNG files among them."""
    parts = evaluation(imagenet.test)
    assert [len(y) for _, y in parts] == [10, 10, 4]
    images, labels = joined(parts)
    assert sorted(labels) == list(range(24))
    for image, label in zip(images * 255, labels):
        difference = np.abs(image - pil_evaluation_crop(pictures()[label]))
        # Half a pixel of a picture that runs from 0 to 255 over 33 pixels is 4.
        assert difference.mean() < 4 and difference.max() < 16, label


@pytest.mark.parametrize("size", [(480, 384), (384, 480), (640, 512)])
def test_imagenet_evaluation_crop_at_224(size):
    """Of sizes at which PIL cuts at whole pixels; it takes those around the crop in as well."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    file = encoded(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))
    split = data.Split(1, lambda index: (tf.constant(file), tf.constant(0)))
    [(images, _)] = evaluation(split, preprocessing=dataclasses.replace(PLAIN, size=224))
    difference = np.abs(images[0] * 255 - pil_evaluation_crop(file, 224))
    assert difference.mean() < 0.5 and difference[2:-2, 2:-2].max() < 3 and difference.max() < 8


def test_evaluation_shares_the_images_among_workers(imagenet):
    labels = joined(evaluation(imagenet.test))[1]
    for i in range(3):
        part = joined(evaluation(imagenet.test, workers=3, worker=i))[1]
        np.testing.assert_array_equal(part, labels[i::3])


def test_images_are_normalised(imagenet):
    plain, labels = joined(evaluation(imagenet.test))
    normalised, again = joined(
        evaluation(imagenet.test, preprocessing=dataclasses.replace(IMAGENET, size=32))
    )
    np.testing.assert_array_equal(labels, again)
    np.testing.assert_allclose(normalised, (plain - MEAN) / STD, atol=1e-5)


def test_training_does_not_depend_on_workers_or_resumption(imagenet):
    """The same examples, cropped, flipped and coloured alike."""
    whole = training(imagenet.train, batch_size=6)
    assert len(whole) == 8
    for epoch in (whole[:4], whole[4:]):
        assert sorted(joined(epoch)[1]) == list(range(24))
    for workers in (3,):
        parts = [
            training(imagenet.train, batch_size=6, workers=workers, worker=i)
            for i in range(workers)
        ]
        for step, (images, labels) in enumerate(whole):
            np.testing.assert_array_equal(joined([part[step] for part in parts])[1], labels)
            np.testing.assert_array_equal(joined([part[step] for part in parts])[0], images)
    resumed = training(imagenet.train, batch_size=6, first_epoch=1, first_step=2)
    for (images, labels), (again, labels_again) in zip(whole[6:], resumed, strict=True):
        np.testing.assert_array_equal(labels, labels_again)
        np.testing.assert_array_equal(images, again)


def test_training_batches_have_a_static_shape(imagenet):
    batches = data.training_batches(
        imagenet.train,
        batch_size=8,
        preprocessing=PLAIN,
        augmentation="imagenet",
        seed=0,
        epochs=1,
    )
    images, labels = batches.element_spec
    assert images.shape == (8, 32, 32, 3) and images.dtype == tf.float32
    assert labels.shape == (8,) and labels.dtype == tf.int32


# ---- crop boxes --------------------------------------------------------------------------------


@tf.function
def boxes_of(shape, numbers):
    return tf.map_fn(
        lambda row: augment.random_resized(shape, row), numbers, fn_output_signature=tf.int32
    )


def boxes(size, numbers):
    return boxes_of(tf.constant([*size, 3]), tf.constant(numbers)).numpy()


@pytest.mark.parametrize("size", [(250, 200), (1, 1), (3, 400), (11, 7)])
def test_crop_boxes_lie_inside_the_image(size):
    numbers = np.random.default_rng(0).random((300, augment.RANDOM_NUMBERS)).astype(np.float32)
    numbers[0], numbers[1] = 0, np.nextafter(np.float32(1), np.float32(0))
    top, left, height, width = boxes(size, numbers).T
    assert (top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all()
    assert (top + height <= size[0]).all() and (left + width <= size[1]).all()


def test_random_boxes_cover_the_published_range():
    numbers = np.random.default_rng(0).random((500, augment.RANDOM_NUMBERS)).astype(np.float32)
    found = boxes((2500, 2000), numbers)
    areas = found[:, 2] * found[:, 3] / (2500 * 2000)
    ratios = found[:, 3] / found[:, 2]
    assert 0.0795 < areas.min() < 0.12 and 0.9 < areas.max() <= 1
    small = areas < 0.4  # those that fit whatever their ratio
    assert 0.749 < ratios[small].min() < 0.77 and 1.3 < ratios[small].max() < 1.335
    np.testing.assert_allclose(areas[small], (0.08 + 0.92 * numbers[:, 0])[small], rtol=0.01)
    places = found[:, :2] / np.maximum([2500, 2000] - found[:, 2:], 1)
    assert (places[small].min(0) < 0.05).all() and (places[small].max(0) > 0.95).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "pixels"])
@pytest.mark.parametrize(("width", "ratio"), [(63, 1), (64, 2), (128, 4), (256, 8), (300, 8)])
def test_a_crop_shows_its_box_shrunk_by_a_power_of_two(kind, width, ratio):
    picture = coordinates(300, 400)
    top, left, height = 8, 16, 280
    file = np.asarray(picture) if kind == "pixels" else encoded(picture, kind)
    box = lambda shape, numbers: tf.constant([top, left, height, width])  # noqa: E731
    found = augment.crop(tf.constant(file), box, None, 32).numpy().astype(float)
    assert found.shape == (height // ratio, width // ratio, 3)
    for axis, channel, begin, length in ((1, 0, left, 400), (0, 1, top, 300)):
        centres = begin + (np.arange(found.shape[axis]) + 0.5) * ratio - 0.5
        seen = found[..., channel].mean(1 - axis)
        # A box that is no multiple of the ratio is cut short, or stretched, by less than it.
        np.testing.assert_allclose(seen, 255 * centres / (length - 1), atol=1.5 + ratio)
    whole = augment.crop(tf.constant(file), box, None).numpy()
    cut = np.asarray(picture)[top : top + height, left : left + width]
    assert np.abs(whole - cut.astype(float)).max() <= 4


def test_half_of_the_images_are_flipped(imagenet):
    images, labels = joined(training(imagenet.train, epochs=10))
    images = images[np.isin(labels, range(21))]  # those in full colour
    flipped = images[:, :, -1, 0].mean(1) < images[:, :, 0, 0].mean(1)
    upside_down = images[:, -1, :, 1].mean(1) < images[:, 0, :, 1].mean(1)
    assert 0.35 < flipped.mean() < 0.65 and not upside_down.any()


# ---- colours -----------------------------------------------------------------------------------


def numbers_for(brightness=1.0, contrast=1.0, saturation=1.0, turn=0.0):
    numbers = np.full((1, augment.RANDOM_NUMBERS), 0.5, np.float32)
    numbers[0, 5:8] = (np.array([brightness, contrast, saturation]) - 0.8) / 0.4
    numbers[0, 8] = (turn / 0.1 + 1) / 2
    return numbers


def test_brightness_contrast_and_saturation_are_pils(rng):
    """ImageEnhance is what torchvision's ColorJitter uses on images of PIL."""
    from PIL import ImageEnhance

    pixels = rng.integers(70, 180, (16, 16, 3)).astype(np.uint8)  # nothing is cut off
    kinds = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }
    for name, kind in kinds.items():
        for factor in (0.8, 0.93, 1.2):
            ours = augment.jitter(tf.constant(pixels[None]), numbers_for(**{name: factor}))[0]
            theirs = np.asarray(kind(Image.fromarray(pixels)).enhance(factor), float)
            assert np.abs(ours - theirs).max() < 1.5, (name, factor)


def test_hue_turns_colours_and_keeps_grey_and_luma(rng):
    luma = np.array([0.299, 0.587, 0.114])
    pixels = rng.uniform(90, 160, (1, 8, 8, 3)).astype(np.float32)
    turned = augment.jitter(tf.constant(pixels), numbers_for(turn=0.1)).numpy()
    np.testing.assert_allclose(turned @ luma, pixels @ luma, rtol=1e-4)
    back = augment.jitter(tf.constant(turned), numbers_for(turn=-0.1)).numpy()
    np.testing.assert_allclose(back, pixels, atol=0.01)
    yiq = np.array([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    angles = [np.arctan2(*(x.astype(float) @ yiq.T).T) for x in (pixels, turned)]
    change = np.angle(np.exp(1j * (angles[0] - angles[1])))
    np.testing.assert_allclose(np.abs(change), 0.2 * np.pi, atol=1e-3)
    assert len({tuple(x) for x in np.sign(change).reshape(-1, 1)}) == 1
    grey = np.full((1, 8, 8, 3), 100, np.uint8)
    np.testing.assert_allclose(augment.jitter(tf.constant(grey), numbers_for(turn=0.1)), grey)


def test_jitter_takes_every_image_by_its_own_numbers(rng):
    images = rng.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    numbers = rng.random((5, augment.RANDOM_NUMBERS)).astype(np.float32)
    together = augment.jitter(tf.constant(images), tf.constant(numbers)).numpy()
    assert together.min() >= 0 and together.max() <= 255
    for i in range(5):
        alone = augment.jitter(tf.constant(images[i : i + 1]), tf.constant(numbers[i : i + 1]))
        np.testing.assert_allclose(together[i], alone[0], atol=1e-3)


# ---- what goes wrong ---------------------------------------------------------------------------


def test_missing_data(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="holds no imagenet2012/VERSION.*tfds build imagenet2012"):
        data.load("imagenet2012", str(tmp_path))


def test_unknown_choice():
    with pytest.raises(ValueError, match="unreadable must be one of 'stop', 'skip', got 'ignore'"):
        data.load("digits", unreadable="ignore")


@pytest.fixture
def damaged(tmp_path):
    """Pictures 3 and 17 are not whole; a whole one's record has a wrong checksum."""
    files = pictures()
    for i in (3, 17):
        files[i] = files[i][: len(files[i]) // 2]
    return write_imagenet(tmp_path, files)


def test_a_truncated_image_stops_by_name(damaged):
    images = data.load("imagenet2012", str(damaged))
    for batches in (training, evaluation):
        with pytest.raises(tf.errors.InvalidArgumentError, match="cannot be read"):
            batches(images.train)
        with (
            pytest.raises(
                ValueError,
                match=r"^cannot read image\(s\) n000000(03|17)_1.JPEG \(record \d+ of .*tfrecord"
                r".*\); repair or remove them, or leave them out with unreadable='skip'$",
            ),
            data.naming_unreadable_images(),
        ):
            try:
                batches(images.train)
            except tf.errors.InvalidArgumentError:
                time.sleep(0.5)  # what reads ahead goes on meanwhile
                raise


def test_other_errors_stay_what_they_are():
    with pytest.raises(tf.errors.InvalidArgumentError), data.naming_unreadable_images():
        tf.io.decode_jpeg("no image")


def test_truncated_images_are_skipped_and_counted(damaged, caplog):
    images = data.load("imagenet2012", str(damaged), unreadable="skip")
    bad, bad_train = (
        {i for i in range(24) if int(split.example(i)[1]) in (3, 17)}
        for split in (images.test, images.train)
    )
    with caplog.at_level(logging.WARNING):
        labels = joined(evaluation(images.test))[1]
        assert set(images.test.skipped()) == bad and images.train.skipped() == []
    assert list(labels) == [int(images.test.example(i)[1]) for i in range(24) if i not in bad]
    [message] = caplog.messages
    assert message.startswith("2 image(s) could not be read and were skipped: n000000")
    caplog.clear()

    with caplog.at_level(logging.WARNING), data.naming_unreadable_images():
        parts = training(images.train, batch_size=6)
    assert [len(y) for _, y in parts] == [6] * 8
    assert set(images.train.skipped()) == bad_train, "each once, whatever the epochs"
    [message] = caplog.messages
    assert "2 image(s) could not be read" in message
    # The next example stands in; the others are as if nothing had been.
    order = [int(images.train.example(i)[1]) for i in range(24)]
    expected = sorted(
        [*(set(range(24)) - {3, 17}), *(order[(order.index(i) + 1) % 24] for i in (3, 17))]
    )
    for epoch in (parts[:4], parts[4:]):
        assert sorted(joined(epoch)[1]) == expected


def test_skipping_changes_no_other_image_and_not_with_workers(damaged):
    images = data.load("imagenet2012", str(damaged), unreadable="skip")
    whole = training(images.train, batch_size=6)
    parts = [training(images.train, batch_size=6, workers=2, worker=i) for i in range(2)]
    for step, (x, y) in enumerate(whole):
        together = joined([part[step] for part in parts])
        np.testing.assert_array_equal(together[1], y)
        np.testing.assert_array_equal(together[0], x)


def test_a_record_with_a_wrong_checksum_is_named_by_its_place(tmp_path):
    write_imagenet(tmp_path, pictures())
    path = shards(tmp_path)[1]
    content = bytearray(path.read_bytes())
    length = struct.unpack("<Q", content[:8])[0]
    content[12 + length // 2] ^= 255
    path.write_bytes(content)
    images = data.load("imagenet2012", str(tmp_path))
    with (
        pytest.raises(ValueError, match=f"record 0 of {path}"),
        data.naming_unreadable_images(),
    ):
        evaluation(images.train)
    images = data.load("imagenet2012", str(tmp_path), unreadable="skip")
    assert len(joined(evaluation(images.train))[1]) == 23


@pytest.mark.parametrize("change", ["shorter", "longer", "one record less"])
def test_a_damaged_shard_is_named(tmp_path, change):
    write_imagenet(tmp_path, pictures())
    path = shards(tmp_path)[2]
    content = path.read_bytes()
    if change == "shorter":
        os.truncate(path, len(content) - 100)
    elif change == "longer":
        path.write_bytes(content + content[:500])
    else:
        path.write_bytes(content[struct.unpack("<Q", content[:8])[0] + 16 :])
    with pytest.raises(ValueError, match=f"{path} .*copy it again, or prepare it anew"):
        data.load("imagenet2012", str(tmp_path))


def test_the_newest_prepared_version_is_opened(tmp_path):
    write_imagenet(tmp_path, pictures()[:4], shards=1)
    newest = next((tmp_path / "imagenet2012").iterdir())
    newest.rename(newest.with_name("5.0.0"))
    assert data.load("imagenet2012", str(tmp_path)).train.num_examples == 4


# ---- op determinism ----------------------------------------------------------------------------


@pytest.fixture
def op_determinism():
    from tensorflow.python.framework import config

    tf.config.experimental.enable_op_determinism()
    yield
    config.disable_op_determinism()


@pytest.mark.parametrize("unreadable", ["stop", "skip"])
def test_images_are_read_in_parallel_under_op_determinism(
    folder, unreadable, monkeypatch, op_determinism
):
    """TensorFlow then runs a whole pipeline serially if a step of it might change a state."""
    from irnet_tf.data import reading
    from tensorflow.python.data.experimental.ops import testing

    steps = ["ParallelInterleaveV4", "ParallelMapV2", "IgnoreErrors"]
    decoded = reading._decoded

    def watched(examples, *arguments, parallel=True):
        watch = testing.assert_next(steps) if parallel else lambda examples: examples
        return decoded(examples.apply(watch), *arguments, parallel)

    monkeypatch.setattr(reading, "_decoded", watched)
    images = data.load("imagenet2012", str(folder), unreadable=unreadable)
    assert len(training(images.train)) == 6 and len(evaluation(images.test)) == 3

    # What it was before: a Python function anywhere behind.
    spoilt = data.evaluation_batches(images.test, batch_size=10, preprocessing=PLAIN).map(
        lambda images, labels: tf.numpy_function(lambda x: x, [labels], tf.int32)
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="Asserted transformation matching"):
        list(spoilt)
