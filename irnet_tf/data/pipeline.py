"""From a split to batches: one pipeline for every source."""

from __future__ import annotations

import functools

from irnet_tf._utils import check_choice
from irnet_tf.data import augment
from irnet_tf.data.dataset import Split
from irnet_tf.preprocessing import Preprocessing
import numpy as np
import tensorflow as tf

_OPEN_RECORDS = 16
_PARALLEL = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}


def training_batches(
    split: Split,
    *,
    batch_size: int,
    preprocessing: Preprocessing,
    augmentation: str,
    seed: int,
    epochs: int,
    first_epoch: int = 0,
    workers: int = 1,
    worker: int = 0,
    replicas: int = 1,
    on_device: bool = False,
) -> tf.data.Dataset:
    """All training batches from `first_epoch` to the last epoch.

    An epoch has `steps_per_epoch(split, batch_size)` steps over a permutation that depends on
    (seed, epoch) only. The images that do not fill a batch differ from epoch to epoch. If the whole
    split is smaller than a batch, it is the batch.

    Args:
        split: Training images.
        batch_size: Global batch size, over all workers and replicas.
        preprocessing: The network's preprocessing (size, mean, std).
        augmentation: A key of `irnet_tf.data.augment.AUGMENTATIONS`.
        seed: Seed for shuffling and augmentation, 0 to 2**31 - 1.
        epochs: Number of epochs of the whole run.
        first_epoch: Epoch to start with.
        workers: Number of hosts.
        worker: Index of this host. Worker `i` gets slice `i` of every global batch.
        replicas: Number of devices of this worker. Each gets its own batch in turn.
        on_device: Leave augmentation and normalisation to `irnet_tf.training.compile_model`'s step.

    Returns:
        A dataset of `(images, labels)`, normalised float32 `[b, size, size, 3]` and int32 `[b]`,
        where `b = batch_size / (workers * replicas)`. With `on_device`
        `((images, numbers), labels)`: uint8 and random numbers, float32 `[b, RANDOM_NUMBERS]`.

    Raises:
        ValueError: If the augmentation is unknown or the devices do not divide the batch size.
    """
    check_choice("augmentation", augmentation, augment.AUGMENTATIONS)
    devices = workers * replicas
    check_divides(batch_size, devices)
    batch_size = min(batch_size, split.num_examples // devices * devices)
    if not batch_size:
        raise ValueError(f"{split.num_examples} images are too few for {devices} devices")
    steps, local = split.num_examples // batch_size, batch_size // devices
    parts = np.arange(steps * devices).reshape(steps, workers, replicas)[:, worker].ravel()

    def epoch_batches(epoch):
        """(indices, random numbers) of each batch of this worker."""
        epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
        shape = [split.num_examples, augment.RANDOM_NUMBERS]
        numbers = tf.random.stateless_uniform(shape, epoch_seed)

        def batch(part):
            places = part * local + tf.range(local, dtype=tf.int64)
            indices = tf.random.experimental.index_shuffle(places, epoch_seed, shape[0] - 1)
            return indices, tf.gather(numbers, indices)

        return tf.data.Dataset.from_tensor_slices(parts).map(batch)

    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_batches)
    batches = _read_for_training(split, batches, local, preprocessing, augmentation)
    if not on_device:
        finish = functools.partial(
            augment.finish, augmentation=augmentation, preprocessing=preprocessing
        )
        batches = batches.map(lambda example, labels: (finish(*example), labels), **_PARALLEL)
    return batches.prefetch(tf.data.AUTOTUNE)


def _read_for_training(split, batches, local, preprocessing, augmentation) -> tf.data.Dataset:
    """Batches of ((images, numbers), labels) from batches of (indices, numbers)."""
    size, crop_box = preprocessing.size, augment.AUGMENTATIONS[augmentation].crop_box

    def read(indices, numbers):
        images, labels = split.read(indices)
        return (images, numbers), labels

    def decode(example, numbers):
        file, label = split.read(example)
        box = crop_box or (lambda shape, _: preprocessing.square(shape))
        image = augment.crop(file, box, numbers, shrink_to=size)
        image = tf.image.resize(image[None], (size, size))[0]
        return (tf.cast(image + 0.5, tf.uint8), numbers), label

    if split.side == size and not crop_box and preprocessing.crop == 1:
        return batches.map(read, **_PARALLEL)
    examples = _examples(split, batches.unbatch()).map(decode, **_PARALLEL)
    return examples.batch(local, drop_remainder=True)


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    preprocessing: Preprocessing,
    workers: int = 1,
    worker: int = 0,
) -> tf.data.Dataset:
    """Every image of a split once, in order, as `preprocessing` makes it.

    The last batch may be smaller. Worker `i` of `n` gets every n-th image, beginning with image
    `i`. Args and returns are those of `training_batches`.
    """
    indices = tf.data.Dataset.range(worker, split.num_examples, workers)
    size = preprocessing.size

    def decode(example, _):
        file, label = split.read(example)
        image = augment.crop(file, lambda shape, _: preprocessing.square(shape), None)
        return tf.image.resize(image[None], (size, size), antialias=True)[0], label

    if split.side == size and preprocessing.crop == 1:
        batches = indices.batch(batch_size).map(split.read, **_PARALLEL)
    else:
        examples = _examples(split, indices.map(lambda index: (index, ())))
        batches = examples.map(decode, **_PARALLEL).batch(batch_size)
    return batches.map(
        lambda images, labels: (preprocessing.normalise(images), labels), **_PARALLEL
    ).prefetch(tf.data.AUTOTUNE)


def _examples(split: Split, examples: tf.data.Dataset) -> tf.data.Dataset:
    """Replaces the index in (index, numbers) by the record that `split.read` takes."""
    if split.open is None:
        return examples

    def open_record(index, numbers):
        return split.open(index).map(lambda record: (record, numbers))

    return examples.interleave(open_record, _OPEN_RECORDS, **_PARALLEL)


def check_divides(batch_size: int, devices: int) -> None:
    """Raises ValueError if the global batch size is not divisible by the number of devices."""
    if batch_size % devices:
        raise ValueError(
            f"batch_size {batch_size} is not divisible by {devices} devices; use a multiple of "
            f"{devices}, or fewer devices (CUDA_VISIBLE_DEVICES)"
        )


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Steps of an epoch: full batches, or one batch if the split is smaller."""
    return max(1, split.num_examples // batch_size)
