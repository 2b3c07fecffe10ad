"""How each layer's weights move over a training: flips, gradients, histograms."""

from __future__ import annotations

from collections.abc import Callable
import csv
import io
import os
from pathlib import Path
import zipfile

from irnet_tf._utils import write_atomically
from irnet_tf.analysis.measures import binary_kernel
import numpy as np
import tensorflow as tf

_FIELDS = ("epoch", "layer", "flip_ratio", "gradient_norm", "latent_mean", "latent_std")
_BITS = "details_bits.npz"


class LayerDetails(tf.keras.callbacks.Callback):
    """Writes, at the end of each epoch and by the names of layers, what their weights did.

    For `fit` and for `irnet_tf.training.train`. Into `folder` go `details.csv`, a row an epoch
    and layer, and TensorBoard's logs: the same numbers and histograms of latent weights.

    - `flip_ratio`: share of binary weights whose sign is another than when the epoch began;
      empty after a restart that lost sight of that.
    - `gradient_norm`: Euclidean norm of the loss's gradient with respect to the layer's latent
      weights, on `batch` alone, with batch norm as in evaluation.
    - `latent_mean`, `latent_std`: of the latent weights.

    Args:
        folder: the run folder; made if it is not there.
        batch: images as the network takes them, and labels; None: no gradients.
        loss: of labels and what the network gives, one number an example.

    Raises:
        ValueError: when the training begins, if no layer has binary weights.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        batch: tuple | None = None,
        loss: Callable = tf.nn.sparse_softmax_cross_entropy_with_logits,
    ):
        super().__init__()
        self._folder = Path(folder)
        self._batch = batch
        self._loss = loss
        self._layers = {}
        self._rows = []
        self._bits = None
        self._bits_epoch = None

    def on_train_begin(self, logs=None):
        found = {layer.name: binary_kernel(layer) for layer in self.model.layers}
        self._layers = {name: part[:2] for name, part in found.items() if part}
        if not self._layers:
            raise ValueError(
                f"the model {self.model.name!r} has no layer with binary weights to log details of"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._rows = self._read_rows()
        self._bits_epoch, self._bits = self._read_bits()
        self._gradient_norms = tf.function(self._differentiate)
        self._writer = tf.summary.create_file_writer(str(self._folder / "tensorboard"))

    def on_epoch_begin(self, epoch, logs=None):
        self._rows = [row for row in self._rows if int(row["epoch"]) <= epoch]
        if self._bits_epoch != epoch:
            began_here = not (logs or {}).get("first_step")
            self._bits = self._count_bits() if began_here else None

    def on_epoch_end(self, epoch, logs=None):
        bits = self._count_bits()
        norms = self._gradient_norms(*self._batch) if self._batch else [None] * len(bits)
        rows = []
        for (name, (kernel, _)), norm in zip(self._layers.items(), norms):
            latent = kernel.numpy()
            row = {
                "epoch": epoch + 1,
                "layer": name,
                "flip_ratio": None
                if self._bits is None
                else np.mean(bits[name] != self._bits[name]),
                "gradient_norm": None if norm is None else float(norm),
                "latent_mean": latent.mean(),
                "latent_std": latent.std(),
            }
            rows.append(row)
            self._log(row, latent)
        self._writer.flush()
        self._rows += rows
        self._bits, self._bits_epoch = bits, epoch + 1
        self._write()

    def _count_bits(self):
        return {
            name: quantizer(tf.convert_to_tensor(kernel)).numpy() > 0
            for name, (kernel, quantizer) in self._layers.items()
        }

    def _differentiate(self, images, labels):
        kernels = [kernel for kernel, _ in self._layers.values()]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self._loss(labels, self.model(images, training=False)))
        return [tf.norm(gradient) for gradient in tape.gradient(loss, kernels)]

    def _log(self, row, latent):
        with self._writer.as_default(step=row["epoch"]):
            for name in _FIELDS[2:]:
                if row[name] is not None:
                    tf.summary.scalar(f"{row['layer']}/{name}", row[name])
            tf.summary.histogram(f"{row['layer']}/latent", latent)

    def _write(self):
        text = io.StringIO()
        writer = csv.DictWriter(text, _FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self._folder / "details.csv", text.getvalue())
        packed = {name: np.packbits(bits) for name, bits in self._bits.items()}
        data = io.BytesIO()
        np.savez(data, epoch=self._bits_epoch, **packed)
        write_atomically(self._folder / _BITS, data.getvalue())

    def _read_rows(self):
        path = self._folder / "details.csv"
        if not path.exists():
            return []
        with open(path, newline="") as file:
            return list(csv.DictReader(file))

    def _read_bits(self):
        """Of the weights when an epoch ended, and how many had ended then."""
        try:
            with np.load(self._folder / _BITS) as file:
                bits = {
                    name: np.unpackbits(file[name], count=int(np.prod(kernel.shape)))
                    .reshape(kernel.shape)
                    .astype(bool)
                    for name, (kernel, _) in self._layers.items()
                }
                return int(file["epoch"]), bits
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None, None
