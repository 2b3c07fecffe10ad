"""From a split to batches: one pipeline for every source.

Under op determinism TensorFlow runs a pipeline in parallel only if nothing in it may change a
state. So there is no Python function here and no `get_single_element`: what cannot be read is
dropped, found missing by its position, and noted by `tf.print`.
"""

from __future__ import annotations

import contextlib
import functools

from irnet_tf._checks import check_choice
from irnet_tf.data import augment
from irnet_tf.data.dataset import Journal, Split, UnreadableImages
from irnet_tf.preprocessing import Preprocessing
import numpy as np
import tensorflow as tf

_FILES_AT_ONCE = 16  # of records that are read


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
        on_device: whether to leave changes and normalisation to a model that
            `augment_on_device` prepared.

    Returns:
        A dataset of `(images, labels)`: float32 `[b, size, size, 3]`, normalised, and
        int32 `[b]`, where `b = batch_size / (workers * replicas)`. With `on_device` it is
        `((images, numbers), labels)`: uint8, and float32 `[b, RANDOM_NUMBERS]`.

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

    def order_seed(epoch):
        return tf.stack([tf.constant(seed, tf.int64), epoch])

    def numbers_of(epoch):
        """One row an example: its augmentation, whoever loads it and when."""
        shape = [split.num_examples, augment.RANDOM_NUMBERS]
        return tf.random.stateless_uniform(shape, order_seed(epoch))

    def indices_of(epoch, batch, within):
        start = (batch // replicas) * batch_size + worker * share + batch % replicas * local
        return tf.random.experimental.index_shuffle(
            start + within, order_seed(epoch), split.num_examples - 1
        )

    def epoch_batches(epoch):
        numbers = numbers_of(epoch)

        def examples(batch):
            indices = indices_of(epoch, batch, tf.range(local, dtype=tf.int64))
            return indices, tf.gather(numbers, indices)

        first = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)
        return tf.data.Dataset.range(first * replicas, steps * replicas).map(examples)

    def epoch_and_index(position):
        """Of the example at a position of the whole stream."""
        batch = first_step * replicas + position // local
        epoch = first_epoch + batch // (steps * replicas)
        return epoch, indices_of(epoch, batch % (steps * replicas), position % local)

    def index_and_numbers(position):
        epoch, index = epoch_and_index(position)
        return index, numbers_of(epoch)[index]

    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_batches)
    parts = augment.AUGMENTATIONS[augmentation]
    if split.side == preprocessing.size and not parts.crop_box and preprocessing.crop == 1:

        def read(indices, numbers):
            images, labels = split.read(indices)
            return (images, numbers), labels

        batches = batches.map(read, tf.data.AUTOTUNE, deterministic=True)
    else:
        box = parts.crop_box or (lambda shape, numbers: preprocessing.square(shape))
        decode = functools.partial(_training_image, split, box, preprocessing.size)
        count = ((epochs - first_epoch) * steps - first_step) * replicas * local
        examples = _readable(
            batches.unbatch(), split, decode, count, lambda position: epoch_and_index(position)[1]
        )
        if split.unreadable == "skip":
            examples = _with_stand_ins(examples, split, decode, index_and_numbers)
        batches = examples.take(count).batch(local, drop_remainder=True)
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

        examples = _readable(
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


def augment_on_device(
    model: tf.keras.Model, *, augmentation: str, preprocessing: Preprocessing
) -> tf.keras.Model:
    """Let a model change and normalise what `training_batches(on_device=True)` gives.

    It is done at the beginning of `model.train_step`, on the device that trains: a quarter of the
    bytes has to get there, and it is compiled with the rest. `fit` and `make_train_function` take
    such batches then, and plain ones still. Evaluation and prediction stay as they are. Call it
    after `compile`.

    Args:
        model: to be trained.
        augmentation, preprocessing: as given to `training_batches`.

    Returns:
        The same model.
    """
    check_choice("augmentation", augmentation, augment.AUGMENTATIONS)
    step = getattr(model.train_step, "without_augmentation", model.train_step)
    finish = _finish(augmentation, preprocessing)

    def train_step(batch):
        return step(finish(*batch) if isinstance(batch[0], (tuple, list)) else batch)

    train_step.without_augmentation = step
    model.train_step = train_step
    model.train_function = None  # as `compile` does: it is made anew
    return model


def _finish(augmentation, preprocessing):
    def finish(images_and_numbers, labels):
        images = augment.finish(
            *images_and_numbers, augmentation=augmentation, preprocessing=preprocessing
        )
        return images, labels

    return finish


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


# ---- one image after the other -----------------------------------------------------------------


def _training_image(split, box, size, example, numbers):
    file, label = split.read(example)
    image = augment.crop(file, box, numbers, size)
    image = tf.image.resize(image[None], (size, size))[0]
    return tf.cast(image + 0.5, tf.uint8), numbers, label


def _decoded(examples, split, decode, parallel=True):
    """From (position, index, numbers) to (position, image, numbers, label), in order."""
    calls = tf.data.AUTOTUNE if parallel else None
    options = {"num_parallel_calls": calls, "deterministic": True if parallel else None}
    if split.open is not None:

        def record(position, index, numbers):
            return split.open(index).map(lambda record: (position, record, numbers))

        examples = examples.interleave(record, _FILES_AT_ONCE if parallel else 1, **options)
    return examples.map(
        lambda position, source, numbers: (position, *decode(source, numbers)), **options
    )


def _readable(examples, split, decode, count, index_of):
    """Examples that can be read; what cannot is noted in the split's journal.

    If `split.unreadable` is "stop", the pipeline then fails.

    Args:
        examples: (index, numbers), `count` of them.
        split: what is read.
        decode: from what `split.read` takes, and numbers, to (image, numbers, label).
        count: how many examples there are.
        index_of: from a position among the examples to an index, for those that are missing.

    Returns:
        A dataset of ((first missing position, own position), image, numbers, label). At its end
        is one that is no image, of position `count`: it tells what was missing before it.
    """
    examples = examples.enumerate().map(lambda position, example: (position, *example))
    read = _decoded(examples, split, decode).ignore_errors()
    _, *spec = read.element_spec
    nothing = (np.zeros(part.shape, part.dtype.as_numpy_dtype) for part in spec)
    end = tf.data.Dataset.from_tensors((np.int64(count), *nothing))

    def note(first, position):
        indices = tf.map_fn(index_of, tf.range(first, position))
        with tf.control_dependencies([split.journal.write(indices)]):
            return tf.identity(position) if split.unreadable == "skip" else refuse(position)

    def look(expected, position, *rest):
        seen = tf.cond(position > expected, lambda: note(expected, position), lambda: position)
        return seen + 1, ((expected, seen), *rest)

    return read.concatenate(end).scan(
        np.int64(0), lambda expected, example: look(expected, *example)
    )


def refuse(position):
    """`position`, if anything; an operation of a graph that fails."""
    problem = "image(s) cannot be read; irnet_tf.data.naming_unreadable_images says which"
    with tf.control_dependencies([tf.debugging.Assert(False, [problem, position])]):
        return tf.identity(position)


def _with_stand_ins(examples, split, decode, index_and_numbers):
    """In the place of each that is missing, the next example that can be read."""

    def stand_in(position):
        index, numbers = index_and_numbers(position)
        following = tf.data.Dataset.range(index + 1, index + split.num_examples)
        following = following.map(lambda i: (position, i % split.num_examples, numbers))
        found = _decoded(following, split, decode, parallel=False).ignore_errors()
        _, *spec = found.element_spec
        nothing = [tf.zeros(part.shape, part.dtype) for part in spec]
        none = tf.data.Dataset.range(position, position + 1).map(lambda p: (refuse(p), *nothing))
        return found.concatenate(none).take(1)

    def fill(gap, *own):
        missing = tf.data.Dataset.range(*gap).flat_map(stand_in)
        # `from_tensors` counts as something with a state, which this does not.
        own = tf.data.Dataset.from_tensor_slices(tuple(part[None] for part in (gap[1], *own)))
        return missing.concatenate(own)

    return examples.flat_map(fill)


@contextlib.contextmanager
def naming_unreadable_images():
    """Within it, a dataset that meets an unreadable image raises an error that names it.

    Outside it is a `tf.errors.InvalidArgumentError`. Of images that are skipped a warning is
    given at the end, of each once.

    Raises:
        UnreadableImages: a ValueError.
    """
    before = {journal: len(journal.read()) for journal in Journal.all}
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        for journal in list(Journal.all):
            met = journal.read()[before.get(journal, 0) :]
            if met and journal.unreadable == "stop":
                raise UnreadableImages(list(map(journal.describe, dict.fromkeys(met)))) from error
        raise
    finally:
        for journal in list(Journal.all):
            journal.warn()
