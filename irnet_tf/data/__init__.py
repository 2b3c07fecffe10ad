"""Data sets and the input pipeline.

What an example looks like in an epoch depends only on (seed, epoch, index), not on the number of
workers, the batch size, threads or resumption.

Your own images may be JPEG, PNG, WebP, BMP, TIFF or GIF files (the first frame). The EXIF
orientation is applied, and transparent pixels are composited on white. Hidden files are ignored;
other files are ignored with a warning. `python -m irnet_tf.data FOLDER` checks a folder before a
run.
"""

from irnet_tf.data.dataset import Data, Split, UnreadableImages, report_unreadable_images
from irnet_tf.data.loading import load
from irnet_tf.data.pipeline import evaluation_batches, steps_per_epoch, training_batches

__all__ = [
    "Data",
    "Split",
    "UnreadableImages",
    "evaluation_batches",
    "load",
    "report_unreadable_images",
    "steps_per_epoch",
    "training_batches",
]
