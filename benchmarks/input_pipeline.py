"""Speed of the ImageNet input pipeline on one core, beside other readers of the same files.

    python benchmarks/input_pipeline.py [--data_dir=D] [--turns=5] [--batches=8] [--output=F.json]

This project's pipeline reads records, crops at random and resizes to 224; colour jitter, flips and
normalisation run on the training device. It is measured without and with these, beside TensorFlow's
JPEG decoder and larq-zoo's preprocessing (no jitter), which read from memory. All use one thread
of one core and take turns.
"""

import argparse
import io
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image
from tables import add_output, in_turns, show


def photo(rng, height, width):
    """A JPEG with a photograph's 1/f spectrum; 500 x 375 pixels take 110 KB, as in ImageNet."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf

    def field(power):
        noise = rng.standard_normal((2, *frequency.shape))
        values = np.fft.irfft2((noise[0] + 1j * noise[1]) / frequency**power, (height, width))
        return values / values.std()

    luma = 60 * field(1.25) + 6 * rng.standard_normal((height, width)) + rng.uniform(90, 150)
    channels = np.stack([luma, 128 + 15 * field(1.6), 128 + 15 * field(1.6)], -1)
    file = io.BytesIO()
    pixels = np.clip(channels, 0, 255).astype(np.uint8)
    Image.fromarray(pixels, "YCbCr").save(file, "JPEG", quality=92)
    return file.getvalue()


def write_photos(folder, count):
    """Writes `imagenet2012/VERSION` with synthetic photos, as TFDS stores it."""
    import irnet_tf  # noqa: F401, before TensorFlow
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    examples = []
    for i in range(count):
        image = photo(rng, *((375, 500), (500, 375), (333, 500))[i % 3])
        examples.append((str(i), {"image": image, "label": i, "file_name": f"{i}.JPEG"}))
    builder = tfds.builder("imagenet2012", data_dir=folder)
    splits = {"train": examples, "validation": examples[:8]}
    type(builder)._split_generators = lambda self, manager: {k: iter(v) for k, v in splits.items()}
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))


def readers(split, options):
    """Functions that read `options.batches` batches, by name."""
    from irnet_tf import data
    from irnet_tf.preprocessing import IMAGENET
    from larq_zoo.training.data import preprocess_image_bytes
    import tensorflow as tf

    files = [split.example(i)[0].numpy() for i in range(min(split.num_examples, 512))]

    def batches(dataset):
        iterator = iter(dataset)
        return lambda: [next(iterator) for _ in range(options.batches)]

    def ours(on_device):
        return data.training_batches(
            split,
            batch_size=options.batch_size,
            preprocessing=IMAGENET,
            augmentation="imagenet",
            seed=0,
            epochs=1_000_000,
            on_device=on_device,
        )

    def decode():
        for i in range(options.batches * options.batch_size):
            tf.io.decode_jpeg(files[i % len(files)], channels=3)

    memory = tf.data.Dataset.from_tensor_slices(files).repeat()
    larq = memory.map(lambda file: (preprocess_image_bytes(file, is_training=True), 0), -1)
    return {
        "irnet_tf, rest on the device": batches(ours(on_device=True)),
        "irnet_tf, all on this core": batches(ours(on_device=False)),
        "decoding only": decode,
        "larq-zoo, without jitter": batches(larq.batch(options.batch_size).prefetch(-1)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="folder with imagenet2012; default: synthetic photos")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each reader")
    parser.add_argument("--batches", type=int, default=8, help="batches per turn")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--photos", type=int, default=256, help="number of synthetic photos")
    add_output(parser)
    options = parser.parse_args()
    # Before TensorFlow starts one thread per core.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from irnet_tf import data

    with tempfile.TemporaryDirectory() as folder:
        if options.data_dir is None:
            write_photos(folder, options.photos)
        split = data.load("imagenet2012", options.data_dir or folder).train
        rows, images = [], options.batches * options.batch_size
        for name, seconds in in_turns(readers(split, options), options.turns).items():
            processor, clock = (images / np.median(seconds, 0)).tolist()
            rows.append({"reader": name, "images/s": clock, "images/s, processor time": processor})
    show({"input": rows}, options.output)


if __name__ == "__main__":
    main()
