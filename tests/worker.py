"""A process of a run, for the tests of strategies: ten float64 steps on digits.

    python -m tests.worker --output_dir=O --dump=W.npz [--replicas=2] [--sync_batch_norm] ...
    python -m tests.worker --fit --dump=W.npz [--replicas=2]     # the same with Model.fit

TF_CONFIG or Slurm's variables describe the cluster. The file holds every variable of every replica
of this process.
"""

import argparse
import dataclasses

import irnet_tf  # noqa: F401, before TensorFlow
from irnet_tf import data, training
from irnet_tf.ede import EDECallback
from irnet_tf.preprocessing import DIGITS
from irnet_tf.training import Recipe
import numpy as np
import tensorflow as tf

from tests.tiny import replicas_on_cpu, tiny_network

RECIPE = Recipe("digits", 1, batch_size=12, learning_rate=0.1, augmentation="shift", nesterov=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--dump", required=True)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--sync_batch_norm", action="store_true")
    parser.add_argument("--jit_compile", action="store_true")
    parser.add_argument("--mixed_precision")
    flags = parser.parse_args()

    if not flags.mixed_precision:
        tf.keras.backend.set_floatx("float64")
    strategy = replicas_on_cpu(flags.replicas)
    digits = data.load("digits")
    digits = dataclasses.replace(
        digits,
        train=dataclasses.replace(digits.train, num_examples=120),
        test=dataclasses.replace(digits.test, num_examples=50),
    )

    def network():
        return tiny_network(preprocessing=DIGITS, classes=10)

    class Remember(tf.keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            used["model"] = self.model

    used = {}
    if flags.fit:
        with training.global_state(0, flags.mixed_precision), strategy.scope():
            model = training.compile_model(network(), RECIPE, steps_per_epoch=10)
            batches = training.training_batches(model, digits, RECIPE)
            parts = [EDECallback(schedule=RECIPE.ede), training.AverageStatistics(), Remember()]
            model.fit(batches, epochs=1, steps_per_epoch=10, callbacks=parts, verbose=0)
    else:
        training.train(
            network,
            digits,
            RECIPE.replace(mixed_precision=flags.mixed_precision),
            flags.output_dir,
            strategy=strategy,
            sync_batch_norm=flags.sync_batch_norm,
            jit_compile=flags.jit_compile,
            callbacks=[Remember()],
        )
    model = used["model"]
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)

    def on_each_replica(variables):
        return [
            [replica.numpy() for replica in strategy.experimental_local_results(variable)]
            for variable in variables
        ]

    np.savez(
        flags.dump,
        t=on_each_replica([m.t for m in model.submodules if hasattr(m, "t")]),
        iterations=on_each_replica([optimizer.iterations]),
        **{
            f"{i:03}.{j}": value
            for i, values in enumerate(on_each_replica(model.variables))
            for j, value in enumerate(values)
        },
    )


if __name__ == "__main__":
    main()
