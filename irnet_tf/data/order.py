"""Which example stands where in a run, and by which random numbers it is augmented."""

from __future__ import annotations

import dataclasses

from irnet_tf.data import augment
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Order:
    """A permutation of the examples in each epoch, which (seed, epoch) decides.

    Attributes:
        num_examples: how many there are.
        batch_size: global.
        seed: 0 to 2**31 - 1.
        epochs: how many the whole run has.
        first_epoch, first_step: where to begin.
        workers, worker, replicas: as of `irnet_tf.data.training_batches`.
    """

    num_examples: int
    batch_size: int
    seed: int
    epochs: int
    first_epoch: int
    first_step: int
    workers: int
    worker: int
    replicas: int

    @property
    def local(self) -> int:
        """Examples in a batch of one replica."""
        return self.batch_size // self.workers // self.replicas

    @property
    def _batches_per_epoch(self) -> int:
        return self.num_examples // self.batch_size * self.replicas

    @property
    def count(self) -> int:
        """Examples that this worker still gets."""
        batches = (self.epochs - self.first_epoch) * self._batches_per_epoch
        return (batches - self.first_step * self.replicas) * self.local

    def batches(self) -> tf.data.Dataset:
        """Of (indices, random numbers): int64 `[local]`, float32 `[local, RANDOM_NUMBERS]`."""

        def epoch_batches(epoch):
            numbers = self._numbers(epoch)

            def examples(batch):
                indices = self._indices(epoch, batch, tf.range(self.local, dtype=tf.int64))
                return indices, tf.gather(numbers, indices)

            first = tf.constant(self.first_step * self.replicas, tf.int64)
            first = tf.where(epoch == self.first_epoch, first, 0)
            return tf.data.Dataset.range(first, self._batches_per_epoch).map(examples)

        return tf.data.Dataset.range(self.first_epoch, self.epochs).flat_map(epoch_batches)

    def index(self, position: tf.Tensor) -> tf.Tensor:
        """Of the example at a position among the `count` ones."""
        return self._epoch_and_index(position)[1]

    def index_and_numbers(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The same with its random numbers, at the cost of making those of all examples."""
        epoch, index = self._epoch_and_index(position)
        return index, self._numbers(epoch)[index]

    def _epoch_and_index(self, position):
        batch = self.first_step * self.replicas + position // self.local
        epoch = self.first_epoch + batch // self._batches_per_epoch
        within = position % self.local
        return epoch, self._indices(epoch, batch % self._batches_per_epoch, within)

    def _seed(self, epoch):
        return tf.stack([tf.constant(self.seed, tf.int64), epoch])

    def _numbers(self, epoch):
        """One row an example: its augmentation, whoever loads it and when."""
        shape = [self.num_examples, augment.RANDOM_NUMBERS]
        return tf.random.stateless_uniform(shape, self._seed(epoch))

    def _indices(self, epoch, batch, within):
        share = self.local * self.replicas
        start = batch // self.replicas * self.batch_size + self.worker * share
        start += batch % self.replicas * self.local
        return tf.random.experimental.index_shuffle(
            start + within, self._seed(epoch), self.num_examples - 1
        )
