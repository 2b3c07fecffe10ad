"""Digits, augmentation, and batches that depend on seed, epoch and index only."""

from irnet_tf import data
from irnet_tf.data import Split, augment
from irnet_tf.preprocessing import Preprocessing
import numpy as np
import pytest
import tensorflow as tf

PLAIN = Preprocessing(32, (0.0,) * 3, (1.0,) * 3)  # from 0 ... 255 to 0 ... 1


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def counting_split(n=40, size=32):
    """All pixels of image i are i."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, size, size, 3))

    def read(index):
        return tf.gather(tf.constant(images), index), tf.cast(index, tf.int32)

    return Split(n, read, size)


def batches(split, **changes):
    arguments = {
        "batch_size": 8, "preprocessing": PLAIN, "augmentation": "shift_and_flip", "seed": 3,
        "epochs": 3, **changes,
    }  # fmt: skip
    return [(x.numpy(), y.numpy()) for x, y in data.training_batches(split, **arguments)]


def joined(parts):
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch():
    split = counting_split()
    labels = joined(batches(split))[1].reshape(3, 40)
    for epoch in labels:
        assert sorted(epoch) == list(range(40))
    assert len({tuple(epoch) for epoch in labels}) == 3
    np.testing.assert_array_equal(labels, joined(batches(split))[1].reshape(3, 40))
    assert (labels != joined(batches(split, seed=4))[1].reshape(3, 40)).any()


def test_the_images_that_do_not_fill_a_batch_differ_from_epoch_to_epoch():
    labels = joined(batches(counting_split(44), epochs=20))[1].reshape(20, 40)
    left = [frozenset(range(44)) - set(epoch) for epoch in labels]
    assert all(len(x) == 4 for x in left) and len(set(left)) > 1


def by_example(parts, steps, batch):
    """{(epoch, label): image}"""
    images, labels = joined(parts)
    return {
        (i // (steps * batch), int(label)): image
        for i, (image, label) in enumerate(zip(images, labels))
    }


def test_an_example_depends_on_seed_epoch_and_index_only(digits):
    """Not on batch size, resumption, workers or replicas."""
    split = Split(40, digits.train.read, 32)
    whole = batches(split)
    reference = by_example(whole, 5, 8)
    other = by_example(batches(split, batch_size=4), 10, 4)
    assert reference.keys() == other.keys()
    for key, image in reference.items():
        np.testing.assert_array_equal(other[key], image)

    resumed = batches(split, first_epoch=1)
    for (x, y), (a, b) in zip(whole[5:], resumed, strict=True):
        np.testing.assert_array_equal(x, a)
        np.testing.assert_array_equal(y, b)

    for workers, replicas in ((2, 1), (1, 2), (2, 2), (4, 1)):
        parts = [
            batches(split, workers=workers, worker=w, replicas=replicas) for w in range(workers)
        ]
        for i, (x, _) in enumerate(whole):
            global_batch = [p[0] for part in parts for p in part[i * replicas : (i + 1) * replicas]]
            np.testing.assert_array_equal(np.concatenate(global_batch), x)


def test_shift_and_flip_makes_crops_of_the_padded_image_half_of_them_flipped(rng):
    image = rng.integers(1, 256, (32, 32, 3)).astype(np.uint8)
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
    crops = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 32, left : left + 32]
            crops[crop.tobytes()] = (top, left, False)
            crops[crop[:, ::-1].tobytes()] = (top, left, True)
    numbers = tf.random.stateless_uniform([2000, augment.RANDOM_NUMBERS], [1, 2])
    images = tf.constant(np.repeat(image[None], 2000, 0))
    out = augment.random_crop(images, numbers, flip=True).numpy()
    found = np.array([crops[x.astype(np.uint8).tobytes()] for x in out])
    assert {tuple(x) for x in found[:, :2]} == {(i, j) for i in range(9) for j in range(9)}
    assert 0.45 < found[:, 2].mean() < 0.55
    shifted = augment.random_crop(images, numbers).numpy()
    assert not any(crops[x.astype(np.uint8).tobytes()][2] for x in shifted)


def test_evaluation_sees_every_image_once_in_order():
    split = counting_split(43)
    parts = [
        (x.numpy(), y.numpy())
        for x, y in data.evaluation_batches(
            split, batch_size=10, preprocessing=Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
        )
    ]
    images, labels = joined(parts)
    assert labels.tolist() == list(range(43)) and len(parts[-1][0]) == 3
    np.testing.assert_allclose(images[:, 0, 0, 0], (np.arange(43) / 255 - 0.5) / 0.25, rtol=1e-5)


def test_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    original = load_digits()
    assert digits.train.num_examples + digits.test.num_examples == 1797
    assert digits.test.num_examples == 360 and digits.num_classes == 10
    images, labels = digits.test.read(tf.range(360))
    small = images.numpy()[..., 0].reshape(360, 8, 4, 8, 4).mean((2, 4)).reshape(360, 64)
    distance = np.abs(small[:, None] - original.data * 255 / 16).mean(-1)
    assert distance.min(1).max() < 20
    np.testing.assert_array_equal(original.target[distance.argmin(1)], labels)
    assert min(np.bincount(labels)) >= 34


@pytest.mark.parametrize(("devices", "expected"), [(1, 40), (3, 39)])
def test_a_split_smaller_than_a_batch_is_one_batch(devices, expected):
    split = counting_split()
    parts = batches(split, batch_size=48, replicas=devices, epochs=2)
    assert data.steps_per_epoch(split, 48) == 1 and data.steps_per_epoch(split, 16) == 2
    labels = joined(parts)[1].reshape(2, expected)
    assert len(parts) == 2 * devices and all(len(set(epoch)) == expected for epoch in labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 8, "workers": 3}, "batch_size 8 is not divisible by 3 devices"),
        ({"batch_size": 64, "workers": 64}, "40 images are too few for 64 devices"),
        ({"augmentation": "nope"}, "augmentation must be one of .*'shift', .*got 'nope'"),
    ],
)
def test_invalid_batches(changes, message):
    with pytest.raises(ValueError, match=message):
        batches(counting_split(), **changes)


def test_an_unknown_data_set_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown data set 'mnist'; .*digits, cifar10, imagenet20"):
        data.load("mnist")
    with pytest.raises(ValueError, match="unknown data set 'cifra10'; did you mean cifar10"):
        data.load("cifra10")
