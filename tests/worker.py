"""One process of a training, for the tests of strategies: ten float64 steps on digits.

    python -m tests.worker --output_dir=O --dump=W.npz [--replicas=2] [--sync_batch_norm] ...

Several of them are a cluster where TF_CONFIG or Slurm's variables say so. The file gets every
variable of every replica of this process.
"""

import argparse
import dataclasses

import irnet_tf  # noqa: F401, before TensorFlow
from irnet_tf import data, training
from irnet_tf.models import cifar_resnet
from irnet_tf.preprocessing import DIGITS
from irnet_tf.training import Recipe, run
import numpy as np
import tensorflow as tf

RECIPE = Recipe("digits", 1, batch_size=12, learning_rate=0.1, augmentation="shift", nesterov=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--dump", required=True)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--sync_batch_norm", action="store_true")
    parser.add_argument("--jit_compile", action="store_true")
    parser.add_argument("--mixed_precision")
    flags = parser.parse_args()

    if not flags.mixed_precision:
        tf.keras.backend.set_floatx("float64")
    if flags.replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * flags.replicas
        )
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(flags.replicas)])
    else:
        strategy = training.make_strategy()
    digits = data.load("digits")
    digits = dataclasses.replace(
        digits,
        train=dataclasses.replace(digits.train, num_examples=120),
        test=dataclasses.replace(digits.test, num_examples=50),
    )
    used = {}
    make_train_step = run.steps.make_train_step

    def remember(model, optimizer, *arguments):
        used["variables"] = model.variables
        used["iterations"] = [getattr(optimizer, "inner_optimizer", optimizer).iterations]
        used["t"] = [m.t for m in model.submodules if hasattr(m, "t")]
        return make_train_step(model, optimizer, *arguments)

    run.steps.make_train_step = remember
    training.train(
        lambda: cifar_resnet(20),
        digits,
        RECIPE,
        flags.output_dir,
        network="digits",
        preprocessing=DIGITS,
        strategy=strategy,
        sync_batch_norm=flags.sync_batch_norm,
        jit_compile=flags.jit_compile,
        mixed_precision=flags.mixed_precision,
    )

    def on_each_replica(variables):
        return [
            [replica.numpy() for replica in strategy.experimental_local_results(variable)]
            for variable in variables
        ]

    np.savez(
        flags.dump,
        t=on_each_replica(used["t"]),
        iterations=on_each_replica(used["iterations"]),
        **{
            f"{i:03}.{j}": value
            for i, values in enumerate(on_each_replica(used["variables"]))
            for j, value in enumerate(values)
        },
    )


if __name__ == "__main__":
    main()
