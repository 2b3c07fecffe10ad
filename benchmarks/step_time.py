"""Time and peak memory of a training step, beside full precision and Larq's ste_sign.

    python benchmarks/step_time.py [NETWORK...] [--batch=128] [--turns=10] [--output=FILE.json]
        [--mixed_precision=mixed_bfloat16] [--jit_compile]

Networks are 1/1 networks of the zoo; the default is three for CIFAR-10. The variants of a network
take turns; a ratio is the median of the ratios within a turn. Without a GPU, processor time is
measured. Peak memory is that of a process which runs two steps, with TensorFlow's 700 MB, or of
the GPU.
"""

import argparse
import multiprocessing
import os
import resource

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import irnet_tf  # noqa: F401, before TensorFlow
from irnet_tf.training import Recipe, compile_model
import numpy as np
from tables import add_output, in_turns, show
import tensorflow as tf
import zoo

NETWORKS = (
    "cifar10/resnet20_bireal_1w1a",
    "cifar10/vgg_small_1w1a",
    "cifar10/resnet18_normal_1w1a",
)
VARIANTS = {
    "full precision (32/32, ReLU)": {"weight_bits": 32, "activation_bits": 32},
    "IR-Net (1/1)": {},
    "Larq ste_sign (1/1)": {"kernel_quantizer": "ste_sign", "input_quantizer": "ste_sign"},
}


def make_step(name, variant, options):
    """A function that runs one training step."""
    if options.mixed_precision:
        tf.keras.mixed_precision.set_global_policy(options.mixed_precision)
    batch, model = options.batch, zoo.info(name).config.build(**VARIANTS[variant])
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *model.input_shape[1:])).astype("float32")
    labels = rng.integers(0, 10, batch).astype("int32")
    iterator = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    recipe = Recipe("digits", epochs=1, batch_size=batch, learning_rate=0.1)
    compile_model(model, recipe, 1000, jit_compile=options.jit_compile)
    step = model.make_train_function()
    return lambda: float(step(iterator)["loss"])  # waits for the device


def peak_megabytes(name, variant, options):
    """Peak memory in MB of two steps: of a GPU, if there is one, or of this process."""
    run = make_step(name, variant, options)
    run(), run()
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(name, options):
    """A row per variant of the network."""
    runs = {variant: make_step(name, variant, options) for variant in VARIANTS}
    column = 1 if tf.config.list_physical_devices("GPU") else 0
    seconds = {v: times[:, column] for v, times in in_turns(runs, options.turns).items()}
    tf.keras.backend.clear_session()
    base = seconds[next(iter(VARIANTS))]
    for variant, times in seconds.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(peak_megabytes, (name, variant, options))
        yield {
            "network": name,
            "variant": variant,
            "batch": options.batch,
            "precision": options.mixed_precision or "float32",
            "ms per step": 1e3 * float(np.median(times)),
            "ratio": float(np.median(times / base)),
            "peak MB": peak,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--jit_compile", action="store_true")
    parser.add_argument("--mixed_precision", help="a Keras policy, such as mixed_bfloat16")
    add_output(parser)
    options = parser.parse_args()
    rows = [row for name in options.networks for row in measure(name, options)]
    show({"step": rows}, options.output)


if __name__ == "__main__":
    main()
