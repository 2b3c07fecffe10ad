"""Where images come from, and the one pipeline that turns them into batches.

What an example looks like in an epoch depends only on (seed, epoch, its index): not on the
number of workers, the batch size, threads or resumption.
"""

from irnet_tf.data.pipeline import (
    evaluation_batches,
    naming_unreadable_images,
    training_batches,
)
from irnet_tf.data.sources import Data, Split, load

__all__ = [
    "Data",
    "Split",
    "evaluation_batches",
    "load",
    "naming_unreadable_images",
    "training_batches",
]
