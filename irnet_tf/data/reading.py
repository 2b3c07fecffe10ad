"""Images that are read one by one: in parallel, in order, and with damage told by name.

Under op determinism TensorFlow runs a pipeline in parallel only if nothing in it may change a
state. So there is no Python function here and no `get_single_element`: what cannot be read is
dropped, found missing by its position, and noted by `tf.print`.
"""

from __future__ import annotations

import contextlib

from irnet_tf.data import augment
from irnet_tf.data.dataset import Journal, UnreadableImages
import numpy as np
import tensorflow as tf

_FILES_AT_ONCE = 16  # of records that are read


def training_image(split, box, size, example, numbers):
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


def readable(examples, split, decode, count, index_of):
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
            return tf.identity(position) if split.unreadable == "skip" else _refuse(position)

    def look(expected, position, *rest):
        seen = tf.cond(position > expected, lambda: note(expected, position), lambda: position)
        return seen + 1, ((expected, seen), *rest)

    return read.concatenate(end).scan(
        np.int64(0), lambda expected, example: look(expected, *example)
    )


def _refuse(position):
    """`position`, if anything; an operation of a graph that fails."""
    problem = "image(s) cannot be read; irnet_tf.data.naming_unreadable_images says which"
    with tf.control_dependencies([tf.debugging.Assert(False, [problem, position])]):
        return tf.identity(position)


def with_stand_ins(examples, split, decode, index_and_numbers):
    """In the place of each that is missing, the next example that can be read."""

    def stand_in(position):
        index, numbers = index_and_numbers(position)
        following = tf.data.Dataset.range(index + 1, index + split.num_examples)
        following = following.map(lambda i: (position, i % split.num_examples, numbers))
        found = _decoded(following, split, decode, parallel=False).ignore_errors()
        _, *spec = found.element_spec
        nothing = [tf.zeros(part.shape, part.dtype) for part in spec]
        none = tf.data.Dataset.range(position, position + 1).map(lambda p: (_refuse(p), *nothing))
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
            written = journal.read()[before.get(journal, 0) :]
            if written and journal.unreadable == "stop":
                # Behind the first a pipeline that reads ahead may miss what it can read.
                raise UnreadableImages(list(map(journal.describe, written[0]))) from error
        raise
    finally:
        for journal in list(Journal.all):
            journal.warn()
