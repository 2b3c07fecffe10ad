"""How each layer's weights change over a run: sign flips, gradient norms, histograms."""

from __future__ import annotations

import csv
import os

from irnet_tf._utils import csv_text, write_atomically
from irnet_tf.analysis.measures import binary_kernel
from irnet_tf.training.run_dir import RunDir
import numpy as np
import tensorflow as tf

_FIELDS = ("epoch", "layer", "flip_ratio", "gradient_norm", "latent_mean", "latent_std")


class LayerDetails(tf.keras.callbacks.Callback):
    """Logs the binary weights of each layer at the end of each epoch.

    Writes `details.csv`, with a row per epoch and layer, and TensorBoard logs with the same values
    and histograms of the latent weights.

    - `flip_ratio`: Fraction of binary weights whose sign changed in the epoch.
    - `gradient_norm`: Euclidean norm of the gradient of the model's loss with respect to the latent
      weights, on `batch`, with batch norm in inference mode.
    - `latent_mean`, `latent_std`: Mean and standard deviation of the latent weights.

    Args:
        run_dir: Run folder; created if missing.
        batch: Images as the network takes them, and labels; None: no gradient norms.

    Raises:
        ValueError: If no layer has binary weights; at the start of `fit`.
    """

    def __init__(self, run_dir: str | os.PathLike, batch: tuple | None = None):
        super().__init__()
        self._run_dir = RunDir(run_dir)
        self._batch = batch

    def on_train_begin(self, logs=None):
        found = {layer.name: binary_kernel(layer) for layer in self.model.layers}
        self._layers = {name: part[:2] for name, part in found.items() if part}
        if not self._layers:
            raise ValueError(f"the model {self.model.name!r} has no layer with binary weights")
        self._run_dir.path.mkdir(parents=True, exist_ok=True)
        self._gradient_norms = tf.function(self._differentiate)
        self._writer = tf.summary.create_file_writer(str(self._run_dir.tensorboard))
        self._rows = []
        if self._run_dir.details.exists():
            with open(self._run_dir.details, newline="") as file:
                self._rows = list(csv.DictReader(file))

    def on_epoch_begin(self, epoch, logs=None):
        self._rows = [row for row in self._rows if int(row["epoch"]) <= epoch]
        self._signs = self._read_signs()

    def on_epoch_end(self, epoch, logs=None):
        signs = self._read_signs()
        norms = self._gradient_norms(*self._batch) if self._batch else [None] * len(signs)
        for (name, (kernel, _)), norm in zip(self._layers.items(), norms):
            latent = kernel.numpy()
            row = {
                "epoch": epoch + 1,
                "layer": name,
                "flip_ratio": np.mean(signs[name] != self._signs[name]),
                "gradient_norm": None if norm is None else float(norm),
                "latent_mean": latent.mean(),
                "latent_std": latent.std(),
            }
            self._rows.append(row)
            with self._writer.as_default(step=epoch + 1):
                for field in _FIELDS[2:]:
                    if row[field] is not None:
                        tf.summary.scalar(f"{name}/{field}", row[field])
                tf.summary.histogram(f"{name}/latent", latent)
        self._writer.flush()
        text = csv_text(_FIELDS, ([row[name] for name in _FIELDS] for row in self._rows))
        write_atomically(self._run_dir.details, text)

    def _read_signs(self):
        return {
            name: quantizer(tf.convert_to_tensor(kernel)).numpy() > 0
            for name, (kernel, quantizer) in self._layers.items()
        }

    def _differentiate(self, images, labels):
        kernels = [kernel for kernel, _ in self._layers.values()]
        with tf.GradientTape() as tape:
            losses = self.model.loss.call(labels, self.model(images, training=False))
            loss = tf.reduce_mean(losses)
        return [tf.norm(gradient) for gradient in tape.gradient(loss, kernels)]
