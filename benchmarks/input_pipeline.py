"""What a core does with ImageNet's input pipeline, against what else could read the same files.

    python benchmarks/input_pipeline.py [--data_dir=D] [--turns=5] [--images=1024] [--torch=PYTHON]

Ours reads records, crops at random, resizes to 224 and batches; colours, flips and normalisation
are the training device's. It is measured without them and with them on the same core, against

- loops that only decode the files, whole and from memory, with TensorFlow's decoder;
- larq-zoo's own preprocessing of ImageNet for training, which jitters no colours, from memory;
- torchvision's RandomResizedCrop, flip, ColorJitter(0.2, 0.2, 0.2, 0.1) and normalisation, from
  memory: of PIL images, and `v2` of tensors. For these `--torch` names a Python that has torch
  and torchvision; without one, and where this Python has none, they are left out.

All use one thread of one core and take turns, so that a noisy machine disturbs them alike. A core
that other programs use as well is counted by the processor time that each got.
"""

import contextlib
import os
from pathlib import Path
import pickle
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags
import numpy as np

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "holds imagenet2012/VERSION; made-up photos if not given")
flags.DEFINE_integer("turns", 5, "how often each is measured", lower_bound=1)
flags.DEFINE_integer("images", 1024, "a turn", lower_bound=1)
flags.DEFINE_integer("batch_size", 128, "of the pipelines", lower_bound=1)
flags.DEFINE_string("torch", sys.executable, "a Python that has torch and torchvision")


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


def timed_batches(batches):
    """The same of a dataset's batches, from the second on: none is read ahead of the turn."""
    iterator = iter(batches)
    next(iterator)

    def run():
        steps = max(FLAGS.images // FLAGS.batch_size, 1)
        return sum(len(next(iterator)[1]) for _ in range(steps))

    return timed(run)


def ours(split, on_device):
    from irnet_tf import data
    from irnet_tf.preprocessing import IMAGENET

    return data.training_batches(
        split,
        batch_size=min(FLAGS.batch_size, split.num_examples),
        preprocessing=IMAGENET,
        augmentation="imagenet",
        seed=0,
        epochs=1_000_000,
        on_device=on_device,
    )


def decode_loops(files):
    import tensorflow as tf

    def decode_eagerly():
        for i in range(FLAGS.images):
            tf.io.decode_jpeg(files[i % len(files)], channels=3)
        return FLAGS.images

    together = tf.stack(files)

    @tf.function
    def compiled():
        read = tf.constant(0)
        for i in tf.range(FLAGS.images):
            pixels = tf.io.decode_jpeg(tf.gather(together, i % len(files)), channels=3)
            read += tf.cast(pixels[0, 0, 0], tf.int32)
        return read

    def decode_compiled():
        compiled().numpy()
        return FLAGS.images

    return {"decode only, eager loop": decode_eagerly, "decode only, compiled": decode_compiled}


def larq_zoo(files):
    from larq_zoo.training.data import preprocess_image_bytes
    import tensorflow as tf

    images = tf.data.Dataset.from_tensor_slices(tf.stack(files)).repeat()
    images = images.map(
        lambda file: (preprocess_image_bytes(file, is_training=True, image_size=224), 0),
        tf.data.AUTOTUNE,
    )
    return images.batch(FLAGS.batch_size).prefetch(tf.data.AUTOTUNE)


# Reads files, then does what each line of standard input names, and answers with its speeds.
_TORCH = """
import io, pickle, sys, time
import numpy, torch, torchvision
from PIL import Image
from torchvision import transforms as t1
from torchvision.io import decode_jpeg
from torchvision.transforms import v2
torch.set_num_threads(1)
files, images, batch = pickle.load(sys.stdin.buffer)
mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
pil = t1.Compose([t1.RandomResizedCrop(224), t1.RandomHorizontalFlip(),
                  t1.ColorJitter(0.2, 0.2, 0.2, 0.1), t1.ToTensor(), t1.Normalize(mean, std)])
tensors = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(),
                      v2.ColorJitter(0.2, 0.2, 0.2, 0.1), v2.ToDtype(torch.float32, scale=True),
                      v2.Normalize(mean, std)])
encoded = [torch.frombuffer(bytearray(f), dtype=torch.uint8) for f in files]
def of_pil(i): return pil(Image.open(io.BytesIO(files[i])).convert("RGB"))
def of_tensors(i): return tensors(decode_jpeg(encoded[i], mode=torchvision.io.ImageReadMode.RGB))
print("torch", torch.__version__, "torchvision", torchvision.__version__, flush=True)
for line in sys.stdin:
    example = {"pil": of_pil, "tensors": of_tensors}[line.strip()]
    clock, used = time.perf_counter(), time.process_time()
    for begin in range(0, images, batch):
        torch.stack([example(i % len(files)) for i in range(begin, min(begin + batch, images))])
    print(images / (time.perf_counter() - clock), images / (time.process_time() - used), flush=True)
"""


class Torch:
    """torchvision in a process of its own, on the same core. `versions` is None without it."""

    def __init__(self, files):
        self._process = subprocess.Popen(
            [FLAGS.torch, "-c", _TORCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            pickle.dump((files, FLAGS.images, FLAGS.batch_size), self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        self.versions = self._process.stdout.readline().decode().strip() or None

    def speeds(self, kind):
        self._process.stdin.write(f"{kind}\n".encode())
        self._process.stdin.flush()
        return tuple(map(float, self._process.stdout.readline().split()))

    def close(self):
        with contextlib.suppress(BrokenPipeError):  # it was not there
            self._process.stdin.close()
        self._process.wait()


def measure(data_dir):
    """What was measured, in words, and a row a reader."""
    from irnet_tf import data
    import tensorflow as tf

    split = data.load("imagenet2012", data_dir).train
    files = [split.example(i)[0] for i in range(min(split.num_examples, 512))]
    raw = [file.numpy() for file in files]
    datasets = {
        "ours, to the device": ours(split, on_device=True),
        "ours, all on this core": ours(split, on_device=False),
        "larq-zoo, without jitter": larq_zoo(files),
    }
    rows = {
        name: lambda batches=batches: timed_batches(batches) for name, batches in datasets.items()
    }
    for name, run in decode_loops(files).items():
        run()  # compiles it
        rows[name] = lambda run=run: timed(run)
    torch = Torch(raw)
    if torch.versions:
        rows["torchvision, PIL"] = lambda: torch.speeds("pil")
        rows["torchvision v2, tensors"] = lambda: torch.speeds("tensors")
    turns = [{name: run() for name, run in rows.items()} for _ in range(FLAGS.turns)]
    torch.close()
    first = "ours, to the device"
    table = []
    for name in rows:
        clock, used = (statistics.median(turn[name][i] for turn in turns) for i in (0, 1))
        ratio = statistics.median(turn[first][1] / turn[name][1] for turn in turns)
        table.append(
            {
                "reader": name,
                "images/s, clock": clock,
                "images/s, processor time": used,
                "ours, to the device: times": ratio,
            }
        )
    words = (
        f"{split.num_examples} images of {statistics.mean(map(len, raw)) / 1000:.0f} KB, batch "
        f"{FLAGS.batch_size}, {FLAGS.turns} turns of {FLAGS.images}, one core, TensorFlow "
        f"{tf.__version__}, {torch.versions or 'no torchvision'}"
    )
    return words, table


def print_table(words, table):
    print(words)
    print(f"{'images/s, median':28}{'clock':>8}{'processor time':>16}{'ours, to the device':>22}")
    for row in table:
        name, clock, used, ratio = row.values()
        print(f"{name:28}{clock:8.0f}{used:16.0f}{ratio:16.2f} times")


def main(argv):
    del argv
    if FLAGS.data_dir is not None and not Path(FLAGS.data_dir).is_dir():
        raise app.UsageError(f"--data_dir {FLAGS.data_dir!r} is not a folder")
    print_table(*run(FLAGS.data_dir))


def run(data_dir, photos=200):
    """`measure` on one core; without `data_dir` of so many photos that are made up."""
    # Before TensorFlow loads, which makes as many threads as there are cores.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        if data_dir is None:
            write_photos(folder, photos)
        return measure(data_dir or folder)


if __name__ == "__main__":
    app.run(main)
