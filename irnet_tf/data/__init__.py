"""Where images come from, and the one pipeline that turns them into batches.

What an example looks like in an epoch depends only on (seed, epoch, its index): not on the
number of workers, the batch size, threads or resumption.
"""

from irnet_tf.data.dataset import Data, Split, UnreadableImages
from irnet_tf.data.loading import load
from irnet_tf.data.pipeline import (
    evaluation_batches,
    training_batches,
)
from irnet_tf.data.reading import naming_unreadable_images

__all__ = [
    "Data",
    "Split",
    "UnreadableImages",
    "evaluation_batches",
    "load",
    "naming_unreadable_images",
    "training_batches",
]
