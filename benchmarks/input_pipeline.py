"""What a core does with ImageNet's input pipeline, against a loop that only decodes the files.

    python benchmarks/input_pipeline.py [--data_dir=D] [--cores=1] [--turns=5] [--images=4096]

The pipeline reads records, crops, resizes to 224, mirrors, jitters colours, normalises and
batches; the loop decodes the same files, whole and from memory, with TensorFlow's decoder on
one thread. They take turns, so that a noisy machine disturbs both alike. A core that other
programs use as well is counted by the processor time that each got.
"""

import itertools
import os
from pathlib import Path
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags
import numpy as np

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "holds imagenet2012/VERSION; made-up photos if not given")
flags.DEFINE_integer("cores", 1, "how many the pipeline may use")
flags.DEFINE_integer("turns", 5, "how often each is measured")
flags.DEFINE_integer("images", 4096, "a turn; a quarter of a second of it is the pipeline's start")
flags.DEFINE_integer("batch_size", 128, "of the pipeline")
flags.DEFINE_bool("jitter", True, "whether colours are jittered")


def photo(rng, height, width):
    """A JPEG with a photograph's 1/f spectrum; 500 x 375 takes 110 KB, as ImageNet's do."""
    import io

    from PIL import Image

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


def write_photos(folder, count=200):
    """`imagenet2012/VERSION` under `folder`, in the form that TFDS gives it."""
    import irnet_tf  # noqa: F401, before TensorFlow
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    sizes = [(375, 500), (500, 375), (333, 500), (375, 500)]
    examples = [
        (
            str(i),
            {
                "image": photo(rng, *sizes[i % len(sizes)]),
                "label": i % 1000,
                "file_name": f"{i}.JPEG",
            },
        )
        for i in range(count)
    ]
    builder = tfds.builder("imagenet2012", data_dir=folder)
    type(builder)._split_generators = lambda self, dl_manager: {
        "train": iter(examples),
        "validation": iter(examples[:8]),
    }
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))


def timed(run):
    """Images a second, by the clock and by the processor time used."""
    clock, used = time.perf_counter(), time.process_time()
    count = run()
    return count / (time.perf_counter() - clock), count / (time.process_time() - used)


def measure(data_dir):
    import dataclasses

    from irnet_tf import data
    from irnet_tf.data import augment
    from irnet_tf.preprocessing import IMAGENET
    import tensorflow as tf

    images = data.load("imagenet2012", data_dir)
    batch = min(FLAGS.batch_size, images.train.num_examples)
    steps = max(FLAGS.images // batch, 1)
    if not FLAGS.jitter:
        augment.AUGMENTATIONS["imagenet"] = dataclasses.replace(
            augment.AUGMENTATIONS["imagenet"], change=augment.keep
        )
    batches = data.training_batches(
        images.train,
        batch_size=batch,
        preprocessing=IMAGENET,
        augmentation="imagenet",
        seed=0,
        epochs=1 + steps * batch // (images.train.num_examples // batch * batch),
    ).take(steps)
    kept = [images.train.read(i)[0] for i in range(min(images.train.num_examples, 512))]
    files = tf.stack(kept)

    def decode_eagerly():
        for i in range(FLAGS.images):
            tf.io.decode_jpeg(kept[i % len(kept)], channels=3)
        return FLAGS.images

    @tf.function
    def compiled():
        read = tf.constant(0)
        for i in tf.range(FLAGS.images):
            pixels = tf.io.decode_jpeg(tf.gather(files, i % len(kept)), channels=3)
            read += tf.cast(pixels[0, 0, 0], tf.int32)
        return read

    def decode_compiled():
        compiled().numpy()
        return FLAGS.images

    def run_pipeline():
        return sum(len(labels) for _, labels in batches)

    def mean_bytes():
        return statistics.mean(len(x.numpy()) for x in kept)

    rows = {
        "decode only, eager loop": decode_eagerly,
        "decode only, compiled loop": decode_compiled,
        "input pipeline": run_pipeline,
    }
    for run in rows.values():
        run()
    turns = [{name: timed(run) for name, run in rows.items()} for _ in range(FLAGS.turns)]
    print(
        f"{images.train.num_examples} images of {mean_bytes() / 1000:.0f} KB, batch {batch}, "
        f"{FLAGS.turns} turns of {FLAGS.images}, {FLAGS.cores} core(s), "
        f"TensorFlow {tf.__version__}"
    )
    print(f"{'images/s':32}{'clock, a core':>16}{'processor time':>16}")
    speeds = {}
    for name in rows:
        # Only the pipeline uses more than one core.
        cores = FLAGS.cores if name == "input pipeline" else 1
        speeds[name] = [[turn[name][i] / (1, cores)[i == 0] for turn in turns] for i in (0, 1)]
        clock, used = map(statistics.median, speeds[name])
        print(f"{name:32}{clock:16.0f}{used:16.0f}")
    pipeline, *decoders = reversed(list(speeds.values()))
    ratios = []
    for i in (0, 1):
        decoder = max(decoders, key=lambda speed: statistics.median(speed[i]))
        ratios.append(statistics.median(p / d for p, d in zip(pipeline[i], decoder[i])))
    print(f"{'pipeline / faster loop':32}{ratios[0]:16.3f}{ratios[1]:16.3f}")


def main(argv):
    del argv
    if FLAGS.data_dir is not None and not Path(FLAGS.data_dir).is_dir():
        raise app.UsageError(f"--data_dir {FLAGS.data_dir!r} is not a folder")
    # Before TensorFlow loads, which makes as many threads as there are cores.
    os.sched_setaffinity(0, set(itertools.islice(sorted(os.sched_getaffinity(0)), FLAGS.cores)))
    with tempfile.TemporaryDirectory() as folder:
        if FLAGS.data_dir is None:
            write_photos(folder)
        measure(FLAGS.data_dir or folder)


if __name__ == "__main__":
    app.run(main)
