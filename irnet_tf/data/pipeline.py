"""From a split to batches: one pipeline for every source."""

from __future__ import annotations

import functools

from irnet_tf._utils import check_choice
from irnet_tf.data import augment
from irnet_tf.data.dataset import Split
from irnet_tf.data.order import Order
from irnet_tf.data.reading import readable, training_image, with_stand_ins
from irnet_tf.preprocessing import Preprocessing
import tensorflow as tf


def training_batches(
    split: Split,
    *,
    batch_size: int,
    preprocessing: Preprocessing,
    augmentation: str,
    seed: int,
    epochs: int,
    first_epoch: int = 0,
    first_step: int = 0,
    workers: int = 1,
    worker: int = 0,
    replicas: int = 1,
    on_device: bool = False,
) -> tf.data.Dataset:
    """All batches of a run, one epoch behind the other, from where it is resumed.

    An epoch has `num_examples // batch_size` steps over a permutation that depends on
    (seed, epoch); what is left over differs from epoch to epoch. Of `n` workers, worker `i` gets
    slice `i` of every global batch.

    Args:
        split: the training images.
        batch_size: global, over all workers and replicas.
        preprocessing: of the network: side and normalisation of the images that come out.
        augmentation: a key of `irnet_tf.data.augment.AUGMENTATIONS`.
        seed: of order and augmentation, 0 to 2**31 - 1.
        epochs: how many the whole run has.
        first_epoch, first_step: where to begin.
        workers, worker: how many hosts share the work, and which of them this is.
        replicas: devices of this worker; each gets a batch of its own in turn.
        on_device: whether to leave changes and normalisation to the training step of
            `irnet_tf.training.compile_model`.

    Returns:
        A dataset of `(images, labels)`: float32 `[b, size, size, 3]`, normalised, and
        int32 `[b]`, where `b = batch_size / (workers * replicas)`. With `on_device` it is
        `((images, numbers), labels)`: uint8, and float32 `[b, RANDOM_NUMBERS]`.

    Raises:
        ValueError: if the augmentation is not known, the batch is larger than the split, or it
            does not divide by `workers * replicas`.
    """
    check_choice("augmentation", augmentation, augment.AUGMENTATIONS)
    steps_per_epoch(split, batch_size)  # raises if there is none
    check_divides(batch_size, workers * replicas)
    order = Order(
        split.num_examples, batch_size, seed, epochs, first_epoch, first_step, workers, worker,
        replicas,
    )  # fmt: skip
    batches = order.batches()
    parts = augment.AUGMENTATIONS[augmentation]
    if split.side == preprocessing.size and not parts.crop_box and preprocessing.crop == 1:

        def read(indices, numbers):
            images, labels = split.read(indices)
            return (images, numbers), labels

        batches = batches.map(read, tf.data.AUTOTUNE, deterministic=True)
    else:
        box = parts.crop_box or (lambda shape, numbers: preprocessing.square(shape))
        decode = functools.partial(training_image, split, box, preprocessing.size)
        examples = readable(batches.unbatch(), split, decode, order.count, order.index)
        if split.unreadable == "skip":
            examples = with_stand_ins(examples, split, decode, order.index_and_numbers)
        batches = examples.take(order.count).batch(order.local, drop_remainder=True)
        batches = batches.map(lambda _, images, numbers, labels: ((images, numbers), labels))
    if not on_device:
        finish = _finish(augmentation, preprocessing)
        batches = batches.map(finish, tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    preprocessing: Preprocessing,
    workers: int = 1,
    worker: int = 0,
) -> tf.data.Dataset:
    """Every image of a split once, in its order, the last batch as small as it comes.

    Images come as `preprocessing` makes them. Args and returns as in `training_batches`; of `n`
    workers, worker `i` gets every n-th image from `i` on.
    """
    indices = tf.data.Dataset.range(worker, split.num_examples, workers)
    count = len(range(worker, split.num_examples, workers))
    if split.side == preprocessing.size and preprocessing.crop == 1:
        batches = indices.batch(batch_size).map(split.read, tf.data.AUTOTUNE, deterministic=True)
    else:
        size = preprocessing.size

        def decode(example, numbers):
            file, label = split.read(example)
            image = augment.crop(file, lambda shape, _: preprocessing.square(shape), None)
            return tf.image.resize(image[None], (size, size), antialias=True)[0], numbers, label

        examples = readable(
            indices.map(lambda index: (index, tf.zeros([0]))),
            split,
            decode,
            count,
            lambda position: worker + position * workers,
        )
        if split.unreadable == "skip":
            examples = examples.filter(lambda gap, *example: gap[1] < count)
        batches = examples.take(count).batch(batch_size)
        batches = batches.map(lambda _, images, numbers, labels: (images, labels))
    return batches.map(
        lambda images, labels: (preprocessing.normalise(images), labels),
        tf.data.AUTOTUNE,
        deterministic=True,
    ).prefetch(tf.data.AUTOTUNE)


def _finish(augmentation, preprocessing):
    def finish(images_and_numbers, labels):
        images = augment.finish(
            *images_and_numbers, augmentation=augmentation, preprocessing=preprocessing
        )
        return images, labels

    return finish


def check_divides(batch_size: int, devices: int) -> None:
    """Raises ValueError if a global batch cannot be shared evenly."""
    if batch_size % devices:
        raise ValueError(
            f"batch_size {batch_size} does not divide by {devices} devices; use a multiple of "
            f"{devices}, or fewer devices (CUDA_VISIBLE_DEVICES says which)"
        )


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
