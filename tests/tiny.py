"""A network and data so small that a training of them takes seconds."""

import contextlib
import json
import sys
import time

from irnet_tf import data, training
from irnet_tf.data import Split
from irnet_tf.model_config import ModelConfig, set_model_config
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training import Recipe
import larq as lq
import numpy as np
import tensorflow as tf

from tests.conftest import start_python

RECIPE = Recipe("digits", epochs=2, batch_size=8, learning_rate=0.05, augmentation="shift")
PREPROCESSING = Preprocessing(8, (0.5,) * 3, (0.25,) * 3)


def tiny_data(n=24, size=8):
    """Images whose mean tells the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    images = (80 * labels[:, None, None, None] + rng.integers(0, 60, (n, size, size, 3))).astype(
        np.uint8
    )

    def read(index):
        return tf.gather(tf.constant(images), index), tf.gather(
            tf.constant(labels.astype(np.int32)), index
        )

    split = Split(n, read, size)
    return data.Data("tiny", split, split, ("a", "b", "c"))


def tiny_network(probabilities=False, regularizer=None, preprocessing=PREPROCESSING, classes=3):
    """One convolution of full precision, one of 1-bit weights and inputs, a classifier."""
    inputs = x = tf.keras.layers.Input((preprocessing.size, preprocessing.size, 3), name="images")
    x = tf.keras.layers.Conv2D(8, 3, kernel_regularizer=regularizer, name="conv1")(x)
    x = tf.keras.layers.BatchNormalization(momentum=0.9, name="bn1")(x)
    x = lq.layers.QuantConv2D(
        8, 3, input_quantizer="ede_sign", kernel_quantizer="libra_pb", use_bias=False, name="conv2"
    )(x)
    x = tf.keras.layers.BatchNormalization(momentum=0.9, name="bn2")(x)
    x = tf.keras.layers.GlobalAveragePooling2D(name="pool")(x)
    activation = "softmax" if probabilities else None
    x = tf.keras.layers.Dense(classes, activation, name="fc", dtype=tf.keras.backend.floatx())(x)
    description = ModelConfig(
        "tiny",
        {},
        network="tiny",
        preprocessing=preprocessing,
        output="probabilities" if probabilities else "logits",
        classifier="fc",
    )
    return set_model_config(tf.keras.Model(inputs, x), description)


def tiny_train(folder, recipe=RECIPE, model=tiny_network, **changes):
    return training.train(model, tiny_data(), recipe, str(folder), **changes)


def replicas_on_cpu(count):
    """A strategy of several replicas; call it before any other use of TensorFlow."""
    if count == 1:
        return training.make_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(cpu, devices)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])


def main():
    """`python -m tests.tiny FOLDER [FIELD=VALUE ...]`: a training in a process of its own.

    Like train.py, it joins the cluster that the environment describes.
    """
    folder, *changes = sys.argv[1:]
    changes = {name: json.loads(value) for name, value in (c.split("=") for c in changes)}
    pause = changes.pop("pause", 0)  # seconds at each epoch's end
    fill = changes.pop("fill", False)  # the disk, in the second epoch
    fail = changes.pop("fail", False)  # as the second epoch begins
    options = {name: changes.pop(name) for name in ("seed", "overwrite") if name in changes}
    images = changes.pop("images", 24)
    strategy = replicas_on_cpu(changes.pop("replicas", 1))

    class Disturb(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if fill and epoch == 1:
                with contextlib.suppress(OSError), open(f"{folder}/filler", "wb", 0) as file:
                    while True:
                        file.write(bytes(4096))

            if fail and epoch == 1:
                raise ValueError("an image is broken")

        def on_epoch_end(self, epoch, logs=None):
            time.sleep(pause)

    try:
        training.train(
            tiny_network,
            tiny_data(images),
            RECIPE.replace(**changes),
            folder,
            strategy=strategy,
            callbacks=[Disturb()],
            **options,
        )
    except (ValueError, OSError, training.WorkerLost) as error:
        sys.exit(str(error))


def start_tiny(folder, *changes, env=None):
    """That, in the background, its output to be read from `.stdout`."""
    return start_python("-m", "tests.tiny", folder, *changes, env=env)


if __name__ == "__main__":
    main()
