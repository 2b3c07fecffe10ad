"""ImageNet as TFDS prepares it, and images of varied sizes."""

import functools
import io
import struct

from irnet_tf import data
from irnet_tf.data import augment
from irnet_tf.preprocessing import Preprocessing
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from tests.test_data import batches, joined

SIZES = [(90, 120), (120, 90), (64, 64), (75, 200), (150, 100), (33, 47)]
PLAIN = Preprocessing(32, (0.0,) * 3, (1.0,) * 3, crop=224 / 256)  # from 0 ... 255 to 0 ... 1


def coordinates(height, width):
    """A smooth picture: red is x, green is y, blue is constant."""
    y, x = np.mgrid[0:height, 0:width]
    channels = 255 * x / (width - 1), 255 * y / (height - 1), 100 + 0 * x
    return Image.fromarray(np.rint(np.stack(channels, -1)).astype(np.uint8))


def encoded(picture, kind="JPEG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 97, "subsampling": 0} if kind == "JPEG" else {}))
    return file.getvalue()


def pictures():
    """JPEG files of varied sizes, one of them grey, one CMYK, and a PNG file."""
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


training = functools.partial(batches, preprocessing=PLAIN, augmentation="imagenet", epochs=2)


def evaluation(split, **changes):
    arguments = {"batch_size": 10, "preprocessing": PLAIN, **changes}
    return [(x.numpy(), y.numpy()) for x, y in data.evaluation_batches(split, **arguments)]


def pil_evaluation_crop(file):
    """Resizes the shorter side to 32 * 8 / 7 and crops the centre."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    scale = 32 * 8 / 7 / min(image.size)
    image = image.resize([round(s * scale) for s in image.size], Image.Resampling.BILINEAR)
    left, top = (image.width - 32) // 2, (image.height - 32) // 2
    return np.asarray(image.crop((left, top, left + 32, top + 32)), np.float32)


def test_records_are_read_as_written(imagenet, folder):
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


def test_evaluation_images_equal_pillows(imagenet):
    parts = evaluation(imagenet.test)
    assert [len(y) for _, y in parts] == [10, 10, 4]
    images, labels = joined(parts)
    assert sorted(labels) == list(range(24))
    for image, label in zip(images * 255, labels):
        difference = np.abs(image - pil_evaluation_crop(pictures()[label]))
        # 4 is half a pixel: 0 to 255 over 33 pixels.
        assert difference.mean() < 4 and difference.max() < 16, label
    for i in range(3):
        part = joined(evaluation(imagenet.test, workers=3, worker=i))[1]
        np.testing.assert_array_equal(part, labels[i::3])


def test_training_does_not_depend_on_workers_or_resumption(imagenet):
    """The same examples with the same augmentation."""
    whole = training(imagenet.train, batch_size=6)
    assert len(whole) == 8
    for epoch in (whole[:4], whole[4:]):
        assert sorted(joined(epoch)[1]) == list(range(24))
    parts = [training(imagenet.train, batch_size=6, workers=3, worker=i) for i in range(3)]
    resumed = training(imagenet.train, batch_size=6, first_epoch=1)
    global_batches = [joined([part[step] for part in parts]) for step in range(8)]
    for expected, found in zip([*whole, *whole[4:]], [*global_batches, *resumed], strict=True):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


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
    small = areas < 0.4  # fit at any aspect ratio
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
        # A box that is not a multiple of the ratio is cropped or stretched by less than it.
        np.testing.assert_allclose(seen, 255 * centres / (length - 1), atol=1.5 + ratio)
    whole = augment.crop(tf.constant(file), box, None).numpy()
    cut = np.asarray(picture)[top : top + height, left : left + width]
    assert np.abs(whole - cut.astype(float)).max() <= 4


# ---- colours -----------------------------------------------------------------------------------


def numbers_for(brightness=1.0, contrast=1.0, saturation=1.0, turn=0.0):
    numbers = np.full((1, augment.RANDOM_NUMBERS), 0.5, np.float32)
    numbers[0, 5:8] = (np.array([brightness, contrast, saturation]) - 0.8) / 0.4
    numbers[0, 8] = (turn / 0.1 + 1) / 2
    return numbers


@pytest.mark.parametrize("factor", [0.8, 0.93, 1.2])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color")],
)
def test_brightness_contrast_and_saturation_equal_pillows(rng, name, kind, factor):
    """torchvision's ColorJitter uses ImageEnhance for Pillow images."""
    from PIL import ImageEnhance

    pixels = rng.integers(70, 180, (16, 16, 3)).astype(np.uint8)  # nothing is clipped
    found = augment.jitter(tf.constant(pixels[None]), numbers_for(**{name: factor}))[0]
    expected = getattr(ImageEnhance, kind)(Image.fromarray(pixels)).enhance(factor)
    assert np.abs(found - np.asarray(expected, float)).max() < 1.5


def test_hue_rotates_colours_and_keeps_grey_and_luma(rng):
    luma = np.array([0.299, 0.587, 0.114])
    pixels = rng.uniform(90, 160, (1, 8, 8, 3)).astype(np.float32)
    turned = augment.jitter(tf.constant(pixels), numbers_for(turn=0.1)).numpy()
    np.testing.assert_allclose(turned @ luma, pixels @ luma, rtol=1e-4)
    yiq = np.array([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    angles = [np.arctan2(*(x.astype(float) @ yiq.T).T) for x in (pixels, turned)]
    change = np.angle(np.exp(1j * (angles[0] - angles[1])))
    np.testing.assert_allclose(change * np.sign(change[0]), 0.2 * np.pi, atol=1e-3)
    grey = np.full((1, 8, 8, 3), 100, np.uint8)
    np.testing.assert_allclose(augment.jitter(tf.constant(grey), numbers_for(turn=0.1)), grey)


# ---- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [training, evaluation])
def test_truncated_images_are_listed(tmp_path, read):
    files = pictures()
    for i in (3, 17):
        files[i] = files[i][: len(files[i]) // 2]
    images = data.load("imagenet2012", str(write_imagenet(tmp_path, files)))
    with pytest.raises(data.UnreadableImages) as caught, data.report_unreadable_images(images):
        read(images.train)
    assert len(caught.value.images) == 4, "two in each split"
    for name in ("n00000003_1.JPEG", "n00000017_1.JPEG"):
        assert any(image.startswith(f"{name} (record ") for image in caught.value.images)


def test_a_record_with_a_wrong_checksum_is_listed_by_its_position(tmp_path):
    write_imagenet(tmp_path, pictures())
    path = shards(tmp_path)[1]
    content = bytearray(path.read_bytes())
    length = struct.unpack("<Q", content[:8])[0]
    content[12 + length // 2] ^= 255
    path.write_bytes(content)
    images = data.load("imagenet2012", str(tmp_path))
    with (
        pytest.raises(data.UnreadableImages, match=f"record 0 of {path}"),
        data.report_unreadable_images(images),
    ):
        evaluation(images.train)


def test_the_newest_prepared_version_is_opened(tmp_path):
    write_imagenet(tmp_path, pictures()[:4], shards=1)
    newest = next((tmp_path / "imagenet2012").iterdir())
    newest.rename(newest.with_name("5.0.0"))
    assert data.load("imagenet2012", str(tmp_path)).train.num_examples == 4
