"""From a split to batches: one pipeline for every source."""

from __future__ import annotations

import contextlib
import re

from absl import logging
from irnet_tf._checks import check_choice
from irnet_tf.data import augment
from irnet_tf.data.sources import Split
from irnet_tf.preprocessing import Preprocessing
import numpy as np
import tensorflow as tf

_AT_A_TIME = 16  # catching errors costs as much for one image as for some
_CANNOT_READ = "cannot read image(s) {}; repair or remove them, or --unreadable=skip"


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
) -> tf.data.Dataset:
    """All batches of a run, one epoch behind the other, from where it is resumed.

    An epoch has `num_examples // batch_size` steps over a permutation that depends on
    (seed, epoch); what is left over differs from epoch to epoch. Worker `i` of `n` gets
    the i-th n-th of every global batch.

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

    Returns:
        A dataset of `(images, labels)`: float32 `[b, size, size, 3]`, normalised, and
        int32 `[b]`, where `b = batch_size / (workers * replicas)`.

    Raises:
        ValueError: if the augmentation is not known, the batch is larger than the split, or it
            does not divide by `workers * replicas`.
    """
    check_choice("augmentation", augmentation, augment.AUGMENTATIONS)
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
    return _load(batches, split, preprocessing, augment.AUGMENTATIONS[augmentation], local)


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    preprocessing: Preprocessing,
    workers: int = 1,
    worker: int = 0,
) -> tf.data.Dataset:
    """Every image of a split once, in its order, the last batch as small as it comes.

    Images come as `preprocessing` makes them. Args and returns as in `training_batches`; worker
    `i` of `n` gets every n-th image.
    """

    indices = tf.data.Dataset.range(split.num_examples).shard(workers, worker).batch(batch_size)
    batches = indices.map(
        lambda indices: (indices, tf.zeros([tf.size(indices), augment.RANDOM_NUMBERS]))
    )
    return _load(batches, split, preprocessing, None, batch_size)


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


def _load(batches, split, preprocessing, augmentation, batch_size):
    """From batches of (indices, random numbers) to batches of (images, labels).

    Without an augmentation it is an evaluation.
    """
    training = augmentation is not None
    augmentation = augmentation or augment.Augmentation()
    window = augmentation.window or (lambda shape, numbers: preprocessing.square(shape))
    whole = augmentation.window is None and preprocessing.crop == 1
    if split.side == preprocessing.size and whole:

        def read(indices, numbers):
            images, labels = split.read(indices)
            return preprocessing.normalise(augmentation.change(images, numbers)), labels

        batches = batches.map(read, tf.data.AUTOTUNE, deterministic=True)
    else:
        batches = _load_one_by_one(
            batches, split, preprocessing, augmentation, window, batch_size, training
        )
    return batches.prefetch(tf.data.AUTOTUNE)


def _load_one_by_one(batches, split, preprocessing, augmentation, window, batch_size, training):
    """Reads a few images at a time, in parallel; errors are caught image by image."""
    size = preprocessing.size

    def read(index, numbers):
        image, label = split.read(index)
        image = augment.crop(image, window, numbers, size if training else None)
        if augmentation.mirrored:
            image = augment.mirror(image, numbers)
        images = tf.image.resize(image[None], (size, size), antialias=not training)
        images = _normalise(augmentation.change(images, numbers[None]), preprocessing)
        return images[0], label

    def read_some(indices, numbers):
        examples = tf.data.Dataset.from_tensor_slices((indices, numbers))
        found = examples.map(lambda i, n: (i, *read(i, n))).ignore_errors()
        nothing = np.int64(-1), np.zeros((size, size, 3), np.float32), np.int32(0)
        found = found.concatenate(tf.data.Dataset.from_tensors(nothing))
        found = found.take(tf.size(indices, tf.int64))
        return indices, numbers, *found.batch(_AT_A_TIME).get_single_element()

    def read_it_or_the_next(args):
        index, numbers = args
        candidates = tf.data.Dataset.range(index, index + split.num_examples)
        images = candidates.map(lambda i: read(i % split.num_examples, numbers))
        return images.ignore_errors().take(1).get_single_element()

    report = _reporter(split)

    def check(indices, numbers, found, images, labels):
        def without_unreadable():
            read = tf.ensure_shape(tf.numpy_function(report, [indices, found], tf.bool), [None])
            if training:
                signature = tf.float32, tf.int32
                with tf.control_dependencies([read]):
                    return tf.map_fn(
                        read_it_or_the_next, (indices, numbers), fn_output_signature=signature
                    )
            return tf.boolean_mask(images, read), tf.boolean_mask(labels, read)

        complete = tf.reduce_all(found >= 0)
        return tf.cond(complete, lambda: (images, labels), without_unreadable)

    some = batches.unbatch().batch(_AT_A_TIME)
    # Not in one map with the reading: a Python call would make parallel calls wait.
    some = some.map(read_some, tf.data.AUTOTUNE, deterministic=True).map(check)
    return some.rebatch(batch_size, drop_remainder=training)


def _normalise(images, preprocessing):
    """As `preprocessing.normalise`."""
    shape = images.shape
    rows = tf.reshape(tf.cast(images, tf.float32), [-1, shape[2] * 3])  # few and long: fast
    scale, offset = (np.tile(x, shape[2]) for x in preprocessing.scale_and_offset())
    return tf.reshape(rows * scale + offset, [-1, *shape[1:]])


def _reporter(split):
    """Says which of some images were found, and refuses or warns of the others."""
    seen = set()

    def report(indices, found):
        bad = sorted(set(indices.tolist()) - set(found.tolist()))
        if split.unreadable == "stop":
            raise ValueError(_CANNOT_READ.format("; ".join(map(split.describe, bad))))
        new = [index for index in bad if index not in seen]
        seen.update(new)
        if new:
            logging.warning(
                "%d image(s) could not be read and were skipped: %s",
                len(seen),
                "; ".join(map(split.describe, new)),
            )
        return found >= 0

    return report


@contextlib.contextmanager
def naming_unreadable_images():
    """Within it, a dataset that meets an unreadable image raises a ValueError that names it.

    Outside it is the same text, amid a traceback, in a `tf.errors.InvalidArgumentError`.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        before, after = map(re.escape, _CANNOT_READ.split("{}"))
        found = re.search(f"{before}.*{after}", error.message)
        if found:
            raise ValueError(found[0]) from error
        raise
