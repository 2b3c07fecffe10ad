"""Time of a training step, beside full precision and Larq's ste_sign.

    python benchmarks/step_time.py [NETWORK...] [--batch 128] [--steps 10]
        [--mixed_precision mixed_bfloat16] [--jit_compile]

Networks are 1/1 networks of the zoo; the default is three for CIFAR-10. The variants of a network
take turns step by step, so that other programs on the machine disturb them alike; a ratio is the
median of the ratios within a turn. Without a GPU, processor time is measured.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import irnet_tf  # noqa: F401, before TensorFlow
from irnet_tf.training import Recipe, compile_model
import numpy as np
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


def make_step(entry, arguments, batch, jit_compile):
    """A function that runs one training step and returns its duration in seconds."""
    model = entry.config.build(**arguments)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *model.input_shape[1:])).astype("float32")
    labels = rng.integers(0, 10, batch).astype("int32")
    iterator = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    recipe = Recipe("digits", epochs=1, batch_size=batch, learning_rate=0.1)
    step = compile_model(model, recipe, 1000, jit_compile=jit_compile).make_train_function()
    clock = time.perf_counter if tf.config.list_physical_devices("GPU") else time.process_time

    def run():
        begin = clock()
        float(step(iterator)["loss"])  # waits for the device
        return clock() - begin

    return run


def measure(name, batch=128, steps=10, jit_compile=False):
    """A row per variant of the network: milliseconds per step, and the ratio to full precision."""
    entry = zoo.info(name)
    runs = {
        variant: make_step(entry, arguments, batch, jit_compile)
        for variant, arguments in VARIANTS.items()
    }
    for run in runs.values():
        run(), run()
    turns = [{variant: run() for variant, run in runs.items()} for _ in range(steps)]
    tf.keras.backend.clear_session()
    base = next(iter(VARIANTS))
    return [
        {
            "network": name,
            "variant": variant,
            "ms per step": 1e3 * statistics.median(turn[variant] for turn in turns),
            "ratio": statistics.median(turn[variant] / turn[base] for turn in turns),
        }
        for variant in VARIANTS
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--jit_compile", action="store_true")
    parser.add_argument("--mixed_precision", help="a Keras policy, such as mixed_bfloat16")
    options = parser.parse_args()
    if options.mixed_precision:
        tf.keras.mixed_precision.set_global_policy(options.mixed_precision)
    gpus = len(tf.config.list_physical_devices("GPU"))
    print(
        f"TensorFlow {tf.__version__}, {options.mixed_precision or 'float32'}, "
        f"{os.cpu_count()} cores, {gpus} GPUs"
    )
    for name in options.networks:
        print(f"\n{name}, batch {options.batch}, {options.steps} turns")
        print(f"{'variant':32}{'ms per step':>12}{'ratio':>8}")
        for row in measure(name, options.batch, options.steps, options.jit_compile):
            print(f"{row['variant']:32}{row['ms per step']:12.1f}{row['ratio']:8.3f}", flush=True)


if __name__ == "__main__":
    main()
