"""What IR-Net costs in training: a step against full precision and Larq's ste_sign.

    python benchmarks/step_time.py [--model cifar10/resnet20_bireal_1w1a] [--batch 128] [--steps 30]

The networks take turns step by step, so that a noisy machine disturbs all alike; the ratio is
the median of the ratios within a turn.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import irnet_tf  # noqa: F401, before TensorFlow
from irnet_tf import training
from irnet_tf.training import Recipe
import numpy as np
import tensorflow as tf
import zoo

NETWORKS = {
    "full precision (32/32, ReLU)": {"weight_bits": 32, "activation_bits": 32},
    "IR-Net (1/1)": {},
    "Larq ste_sign (1/1)": {"kernel_quantizer": "ste_sign", "input_quantizer": "ste_sign"},
}


def make_step(entry, arguments, batch, jit_compile):
    model = entry.builder(**{**entry.arguments, **arguments})
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *model.input_shape[1:])).astype("float32")
    labels = rng.integers(0, 10, batch).astype("int32")
    iterator = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    recipe = Recipe("none", epochs=1, batch_size=batch, learning_rate=0.1)
    training.compile(model, recipe, 1000, jit_compile=jit_compile)
    step = model.make_train_function()

    def run():
        begin = time.process_time()
        float(step(iterator)["loss"])  # waits for it
        return time.process_time() - begin

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cifar10/resnet20_bireal_1w1a", help="a 1/1 network")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--jit_compile", action="store_true")
    parser.add_argument("--mixed_precision", help="a Keras policy, such as mixed_bfloat16")
    flags = parser.parse_args()
    if flags.mixed_precision:
        tf.keras.mixed_precision.set_global_policy(flags.mixed_precision)
    entry = zoo.info(flags.model)
    steps = {n: make_step(entry, a, flags.batch, flags.jit_compile) for n, a in NETWORKS.items()}
    for _ in range(3):
        for step in steps.values():
            step()
    turns = [{name: step() for name, step in steps.items()} for _ in range(flags.steps)]
    base = next(iter(NETWORKS))
    gpus = len(tf.config.list_physical_devices("GPU"))
    print(f"{flags.model}, batch {flags.batch}, {flags.steps} turns, TensorFlow {tf.__version__}")
    print(f"{os.cpu_count()} cores, {gpus} GPUs")
    print(f"{'network':32}{'ms a step':>12}{'ratio':>8}")
    for name in NETWORKS:
        milliseconds = 1e3 * statistics.median(turn[name] for turn in turns)
        ratio = statistics.median(turn[name] / turn[base] for turn in turns)
        print(f"{name:32}{milliseconds:12.1f}{ratio:8.3f}")


if __name__ == "__main__":
    main()
