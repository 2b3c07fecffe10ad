"""Speed of the ImageNet input pipeline on one core, beside other readers of the same files.

    python benchmarks/input_pipeline.py [--data_dir=D] [--turns=5] [--images=1024]

This project's pipeline reads records, crops at random and resizes to 224; colour jitter, flips and
normalisation run on the training device. It is measured without and with these, beside TensorFlow's
JPEG decoder and larq-zoo's preprocessing (no jitter), which read from memory. All use one thread
of one core and take turns, so that other programs on the machine disturb them alike.
"""

import argparse
import io
import os
from pathlib import Path
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image


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


def readers(split, files, images, batch_size):
    """From a name to a function that reads about `images` images and returns how many."""
    from irnet_tf import data
    from irnet_tf.preprocessing import IMAGENET
    from larq_zoo.training.data import preprocess_image_bytes
    import tensorflow as tf

    def batches(dataset):
        iterator = iter(dataset)
        next(iterator)
        return lambda: sum(len(next(iterator)[1]) for _ in range(-(-images // batch_size)))

    def ours(on_device):
        return data.training_batches(
            split,
            batch_size=batch_size,
            preprocessing=IMAGENET,
            augmentation="imagenet",
            seed=0,
            epochs=1_000_000,
            on_device=on_device,
        )

    def decode():
        for i in range(images):
            tf.io.decode_jpeg(files[i % len(files)], channels=3)
        return images

    memory = tf.data.Dataset.from_tensor_slices(files).repeat()
    larq = memory.map(lambda file: (preprocess_image_bytes(file, is_training=True), 0), -1)
    return {
        "irnet_tf, rest on the device": batches(ours(on_device=True)),
        "irnet_tf, all on this core": batches(ours(on_device=False)),
        "decoding only": decode,
        "larq-zoo, without jitter": batches(larq.batch(batch_size).prefetch(-1)),
    }


def measure(data_dir=None, *, turns=5, images=1024, batch_size=128, photos=200):
    """A row per reader: images per second, by the clock and by processor time.

    Args:
        data_dir: Folder with imagenet2012; None: synthetic photos.
        turns: Number of measurements, of which the median counts.
        images: Number of images per turn.
        batch_size: Batch size.
        photos: Number of synthetic photos.
    """
    # Before TensorFlow starts one thread per core.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from irnet_tf import data

    with tempfile.TemporaryDirectory() as folder:
        if data_dir is None:
            write_photos(folder, photos)
        split = data.load("imagenet2012", data_dir or folder).train
        files = [split.example(i)[0].numpy() for i in range(min(split.num_examples, 512))]
        speeds = {}
        runs = readers(split, files, images, min(batch_size, split.num_examples))
        for _ in range(turns):
            for name, run in runs.items():
                clock, used = time.perf_counter(), time.process_time()
                count = run()
                speed = count / (time.perf_counter() - clock), count / (time.process_time() - used)
                speeds.setdefault(name, []).append(speed)
    rows = []
    for name, found in speeds.items():
        clock, used = map(statistics.median, zip(*found))
        rows.append({"reader": name, "images/s, clock": clock, "images/s, processor time": used})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="folder with imagenet2012; default: synthetic photos")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each reader")
    parser.add_argument("--images", type=int, default=1024, help="images per turn")
    parser.add_argument("--batch_size", type=int, default=128)
    options = parser.parse_args()
    if options.data_dir is not None and not Path(options.data_dir).is_dir():
        parser.error(f"--data_dir {options.data_dir!r} is not a folder")
    for row in measure(**vars(options)):
        print("{:32}{:10.0f} images/s by the clock{:10.0f} by processor time".format(*row.values()))


if __name__ == "__main__":
    main()
