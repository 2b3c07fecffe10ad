"""From a split to batches: one pipeline for every source."""

from __future__ import annotations

from irnet_tf.data import augment
from irnet_tf.data.sources import Split
import tensorflow as tf


def training_batches(
    split: Split,
    *,
    batch_size: int,
    image_size: int,
    augmentation: str,
    mean,
    std,
    seed: int,
    epochs: int,
    first_epoch: int = 0,
    first_step: int = 0,
    workers: int = 1,
    worker: int = 0,
    replicas: int = 1,
) -> tf.data.Dataset:
    """All batches of a run, one epoch behind the other, from where it is resumed.

    An epoch has `num_examples // batch_size` steps over a permutation that depends on
    (seed, epoch); what is left over differs from epoch to epoch. Worker `i` of `n` gets
    the i-th n-th of every global batch.

    Args:
        split: the training images.
        batch_size: global, over all workers and replicas.
        image_size: side of the images that come out.
        augmentation: a key of `irnet_tf.data.augment.AUGMENTATIONS`.
        mean, std: per channel, of images between 0 and 1.
        seed: of order and augmentation, 0 to 2**31 - 1.
        epochs: how many the whole run has.
        first_epoch, first_step: where to begin.
        workers, worker: how many hosts share the work, and which of them this is.
        replicas: devices of this worker; each gets a batch of its own in turn.

    Returns:
        A dataset of `(images, labels)`: float32 `[b, image_size, image_size, 3]`, normalised,
        and int32 `[b]`, where `b = batch_size / (workers * replicas)`.

    Raises:
        ValueError: if the batch is larger than the split, or does not divide by
            `workers * replicas`.
    """
    steps = steps_per_epoch(split, batch_size)
    if batch_size % (workers * replicas):
        raise ValueError(
            f"batch_size {batch_size} does not divide by {workers} worker(s) x {replicas} "
            f"replica(s); use a multiple of {workers * replicas}"
        )
    share = batch_size // workers
    local = share // replicas

    def epoch_batches(epoch):
        order_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
        # One row an example: its augmentation, whoever loads it and when.
        numbers = tf.random.stateless_uniform(
            [split.num_examples, augment.RANDOM_NUMBERS], order_seed
        )

        def examples(batch):
            start = (batch // replicas) * batch_size + worker * share + batch % replicas * local
            positions = start + tf.range(local, dtype=tf.int64)
            indices = tf.random.experimental.index_shuffle(
                positions, order_seed, split.num_examples - 1
            )
            return indices, tf.gather(numbers, indices)

        first = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)
        return tf.data.Dataset.range(first * replicas, steps * replicas).map(examples)

    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_batches)
    return _load(batches, split, image_size, augment.AUGMENTATIONS[augmentation], mean, std)


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    image_size: int,
    augmentation: str = "none",
    mean,
    std,
    workers: int = 1,
    worker: int = 0,
) -> tf.data.Dataset:
    """Every image of a split once, in its order, the last batch as small as it comes.

    Args and returns as in `training_batches`; worker `i` of `n` gets every n-th image.
    """

    indices = tf.data.Dataset.range(split.num_examples).shard(workers, worker).batch(batch_size)
    batches = indices.map(
        lambda indices: (indices, tf.zeros([tf.size(indices), augment.RANDOM_NUMBERS]))
    )
    crop = augment.AUGMENTATIONS[augmentation].evaluation_crop
    return _load(batches, split, image_size, augment.Augmentation(crop), mean, std)


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Whole batches in an epoch.

    Raises:
        ValueError: if there is none.
    """
    steps = split.num_examples // batch_size
    if not steps:
        raise ValueError(
            f"batch_size {batch_size} is larger than the {split.num_examples} training images; "
            f"use at most {split.num_examples}"
        )
    return steps


def _load(batches, split, size, augmentation, mean, std):
    """From batches of (indices, random numbers) to batches of (images, labels)."""

    def read_one(args):
        index, numbers = args
        image, label = split.read(index)
        return augmentation.crop(image, size, numbers), label

    def read(indices, numbers):
        if split.side == size:
            images, labels = split.read(indices)
        else:
            images, labels = tf.map_fn(
                read_one, (indices, numbers), fn_output_signature=(tf.uint8, tf.int32)
            )
        images.set_shape([None, size, size, 3])
        images = tf.cast(augmentation.change(images, numbers), tf.float32) / 255.0
        return (images - tf.constant(mean)) / tf.constant(std), labels

    return batches.map(read, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
