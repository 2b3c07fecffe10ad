"""Where images come from, and what may not depend on how they are read."""

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
    """Image i is filled with i: what comes out tells which example it was."""
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


def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide():
    split = counting_split()
    labels = joined(batches(split))[1].reshape(3, 40)
    for epoch in labels:
        assert sorted(epoch) == list(range(40))
    assert len({tuple(epoch) for epoch in labels}) == 3
    np.testing.assert_array_equal(labels, joined(batches(split))[1].reshape(3, 40))
    assert (labels != joined(batches(split, seed=4))[1].reshape(3, 40)).any()


def test_what_is_left_over_differs_from_epoch_to_epoch():
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


def test_an_example_depends_on_seed_epoch_and_index_alone(digits):
    """Not on the batch size, resumption, or how many workers and replicas there are."""
    split = Split(40, digits.train.read, 32)
    whole = batches(split)
    reference = by_example(whole, 5, 8)
    other = by_example(batches(split, batch_size=4), 10, 4)
    assert reference.keys() == other.keys()
    for key, image in reference.items():
        np.testing.assert_array_equal(other[key], image)

    resumed = batches(split, first_epoch=1, first_step=2)
    for (x, y), (a, b) in zip(whole[7:], resumed, strict=True):
        np.testing.assert_array_equal(x, a)
        np.testing.assert_array_equal(y, b)

    for workers, replicas in ((2, 1), (1, 2), (2, 2), (4, 1)):
        parts = [
            batches(split, workers=workers, worker=w, replicas=replicas) for w in range(workers)
        ]
        for i, (x, _) in enumerate(whole):
            together = [p[0] for part in parts for p in part[i * replicas : (i + 1) * replicas]]
            np.testing.assert_array_equal(np.concatenate(together), x)


def test_augmentation_changes_from_epoch_to_epoch(digits):
    seen = by_example(batches(Split(40, digits.train.read, 32), epochs=2), 5, 8)
    first = [np.array_equal(seen[0, k], seen[1, k]) for _, k in seen if (0, k) in seen]
    assert np.mean(first) < 0.5


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
    out = augment.random_crop_and_flip(
        tf.constant(np.repeat(image[None], 2000, 0)), numbers
    ).numpy()
    found = np.array([crops[x.astype(np.uint8).tobytes()] for x in out])
    assert {tuple(x) for x in found[:, :2]} == {(i, j) for i in range(9) for j in range(9)}
    assert 0.45 < found[:, 2].mean() < 0.55
    shifted = augment.random_crop(tf.constant(np.repeat(image[None], 2000, 0)), numbers).numpy()
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

    theirs = load_digits()
    assert digits.train.num_examples + digits.test.num_examples == 1797
    assert digits.test.num_examples == 360 and digits.num_classes == 10
    images, labels = digits.test.read(tf.range(360))
    small = images.numpy()[..., 0].reshape(360, 8, 4, 8, 4).mean((2, 4)).reshape(360, 64)
    distance = np.abs(small[:, None] - theirs.data * 255 / 16).mean(-1)
    assert distance.min(1).max() < 20, "enlarging leaves every image close to one of theirs"
    np.testing.assert_array_equal(theirs.target[distance.argmin(1)], labels)
    assert min(np.bincount(labels)) >= 34, "every class is in the test set"


def test_batch_larger_than_the_data():
    with pytest.raises(ValueError, match="batch_size 41 is larger than the 40 training images"):
        batches(counting_split(), batch_size=41)


def test_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="does not divide by 3 devices"):
        batches(counting_split(), batch_size=8, workers=3)


def test_unknown_augmentation():
    with pytest.raises(ValueError, match="augmentation must be one of .*'shift', .*got 'nope'"):
        batches(counting_split(), augmentation="nope")


def test_unknown_data_set():
    with pytest.raises(ValueError, match="unknown data set 'mnist'; .*digits, cifar10"):
        data.load("mnist")
