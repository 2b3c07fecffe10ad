"""Evaluation worth reading: which classes, how sure, and what went most wrong.

`report(model, data, out)` writes into the folder `out`:

    evaluation.json     accuracy, loss, calibration
    classes.csv         per class: images, accuracy (recall), precision, most taken for
    confusion.csv       how many images of a class (row) were taken for which (column)
    mistakes.csv        all mistakes, the worst first
    confusion, calibration, mistakes    as .png and .svg
"""

from __future__ import annotations

from collections.abc import Callable
import csv
import dataclasses
import io
import json
import os
from pathlib import Path

from irnet_tf import data as data_module
from irnet_tf import plotting
from irnet_tf._utils import write_atomically
from irnet_tf.layers import check_takes_normalised_images
from irnet_tf.model_config import classes_of, get_model_config
from irnet_tf.preprocessing import Preprocessing
import numpy as np
import tensorflow as tf

_BINS = 15  # of confidence, as customary for the expected calibration error
_SHOWN = 20  # mistakes in the picture
_DRAWN_CLASSES = 60  # more make no readable matrix


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a network said of every image of a split.

    Attributes:
        probabilities: float32 `[images, classes]`.
        labels: int32 `[images]`.
        classes: their names.
        worst: pixels `[k, size, size, 3]`, 0 to 1, of the first of `mistakes()`.
        names: gives what an image is called where it comes from; None where some were skipped.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    worst: np.ndarray
    names: Callable[[int], str] | None = None

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(1)

    @property
    def confidence(self) -> np.ndarray:
        """Of the class that was predicted."""
        return self.probabilities.max(1)

    def mistakes(self) -> np.ndarray:
        """Indices of mistaken images: the least probable true class first."""
        true = self.probabilities[np.arange(len(self.labels)), self.labels]
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(true[wrong], kind="stable")]

    def confusion(self) -> np.ndarray:
        """int64 `[classes, classes]`: images of a class (row) by what they were taken for."""
        matrix = np.zeros((len(self.classes),) * 2, np.int64)
        np.add.at(matrix, (self.labels, self.predicted), 1)
        return matrix

    def calibration(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per bin of confidence, `[15]` each: images, mean confidence, accuracy (NaN if none)."""
        bins = np.minimum((self.confidence * _BINS).astype(int), _BINS - 1)
        count = np.bincount(bins, minlength=_BINS)
        right = self.predicted == self.labels
        with np.errstate(invalid="ignore"):
            confidence = np.bincount(bins, self.confidence, _BINS) / count
            accuracy = np.bincount(bins, right, _BINS) / count
        return count, confidence, accuracy

    def summary(self) -> dict:
        """Accuracies and calibration as fractions, loss in nats; top-5 above five classes."""
        true = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        count, confidence, accuracy = self.calibration()
        gaps = np.abs(np.nan_to_num(confidence - accuracy))
        summary = {
            "images": len(self.labels),
            "accuracy": float(np.mean(self.predicted == self.labels)),
            "loss": float(-np.log(np.maximum(true, 1e-30)).mean()),
            "mean_confidence": float(self.confidence.mean()),
            "expected_calibration_error": float((gaps * count).sum() / count.sum()),
        }
        if len(self.classes) > 5:
            above = (self.probabilities > true[:, None].astype(np.float32)).sum(1)
            summary["top5"] = float(np.mean(above < 5))
        return summary


def predict(
    model: tf.keras.Model,
    data: data_module.Data,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 100,
) -> Predictions:
    """What the network says of every test image.

    Args:
        model: from normalised images to logits or, if its description says so, probabilities.
        data: the data set.
        preprocessing: None: that of the model's description.
        batch_size: images at a time.

    Raises:
        ValueError: if it is not known what images the network expects, it preprocesses them
            itself, or its outputs are not the data's classes.
    """
    if preprocessing is None:
        check_takes_normalised_images(model)
    known = get_model_config(model)
    preprocessing = preprocessing or (known and known.preprocessing)
    if preprocessing is None:
        raise ValueError("it is not known what images the network expects; give preprocessing")
    data.check_classes(classes_of(model))
    softmax = known is None or known.output == "logits"

    @tf.function(reduce_retracing=True)
    def probabilities(images):
        outputs = tf.cast(model(images, training=False), tf.float32)
        return tf.nn.softmax(outputs) if softmax else outputs

    collected, truths = [], []
    worst, badness = None, np.empty(0)
    batches = data_module.evaluation_batches(
        data.test, batch_size=batch_size, preprocessing=preprocessing
    )
    with data_module.naming_unreadable_images():
        for images, labels in batches:
            found, labels = probabilities(images).numpy(), labels.numpy()
            collected.append(found)
            truths.append(labels)
            bad = np.where(found.argmax(1) == labels, 2.0, found[np.arange(len(labels)), labels])
            pixels = images.numpy() * preprocessing.std + preprocessing.mean
            worst = pixels if worst is None else np.concatenate([worst, pixels])
            badness = np.concatenate([badness, bad])
            keep = np.argsort(badness, kind="stable")[:_SHOWN]
            keep = keep[badness[keep] < 2]
            worst, badness = worst[keep], badness[keep]
    labels = np.concatenate(truths)
    whole = len(labels) == data.test.num_examples
    return Predictions(
        np.concatenate(collected),
        labels,
        tuple(data.class_names),
        np.clip(worst, 0, 1),
        data.test.describe if whole else None,
    )


def report(
    model: tf.keras.Model,
    data: data_module.Data,
    out: str | os.PathLike,
    *,
    preprocessing: Preprocessing | None = None,
    title: str = "",
) -> dict:
    """Evaluate on every test image; write the tables and pictures that the module lists.

    Args:
        model, data, preprocessing: as of `predict`.
        out: folder; made if it is not there.
        title: of the pictures, such as the network's name.

    Returns:
        What evaluation.json holds: `images`, `accuracy`, `loss`, `mean_confidence`,
        `expected_calibration_error`, and `top5` where there are more than five classes.

    Raises:
        ValueError: as `predict`.
        OSError: if something cannot be written.
    """
    predictions = predict(model, data, preprocessing)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    summary = {"data": data.name, **predictions.summary()}
    matrix = predictions.confusion()
    write_atomically(out / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    write_atomically(out / "classes.csv", _classes_csv(predictions.classes, matrix))
    write_atomically(out / "confusion.csv", _confusion_csv(predictions.classes, matrix))
    write_atomically(out / "mistakes.csv", _mistakes_csv(predictions))
    title = f"{title} on {data.name}" if title else data.name
    if len(matrix) <= _DRAWN_CLASSES:
        draw_confusion(predictions.classes, matrix, out / "confusion", title)
    draw_calibration(predictions, out / "calibration", title)
    if len(predictions.worst):
        draw_mistakes(predictions, out / "mistakes", title)
    return summary


def draw_confusion(classes, matrix: np.ndarray, path, title: str = "") -> list[Path]:
    """The confusion matrix, each row in % of the class's images."""
    count = len(classes)
    side = min(12, 3 + 0.5 * count)
    figure = plotting.new(side + 1, side)
    axes = figure.subplots()
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    mesh = axes.imshow(share, cmap="Greys", vmin=0, vmax=100)
    figure.colorbar(mesh, ax=axes, label="% of the images of the true class", shrink=0.8)
    if count <= 20:
        for i, j in np.ndindex(*share.shape):
            if matrix[i, j]:
                colour = "white" if share[i, j] > 50 else "black"
                text = f"{share[i, j]:.0f}" if share[i, j] >= 1 else "<1"
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(count), classes, rotation=90)
    axes.set_yticks(range(count), classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title)
    return plotting.save(figure, path)


def draw_calibration(predictions: Predictions, path, title: str = "") -> list[Path]:
    """Accuracy over confidence, and how many images there are of each confidence."""
    count, confidence, accuracy = predictions.calibration()
    error = predictions.summary()["expected_calibration_error"]
    figure = plotting.new(6.5, 6.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 100], [0, 100], color="0.5", linestyle="--", label="as sure as right")
    known = count > 0
    above.plot(100 * confidence[known], 100 * accuracy[known], label="network", **plotting.style(0))
    above.set_ylabel("accuracy, %")
    above.set_title(f"{title}\nexpected calibration error {100 * error:.1f} %")
    above.legend(frameon=False)
    left = 100 * np.arange(_BINS) / _BINS
    below.bar(left, 100 * count / count.sum(), 100 / _BINS, align="edge", color="0.4", ec="white")
    below.set_xlabel("confidence in the predicted class, %")
    below.set_ylabel("images, %")
    for axes in (above, below):
        axes.set_xlim(0, 100)
        axes.grid(alpha=0.3)
    return plotting.save(figure, path)


def draw_mistakes(predictions: Predictions, path, title: str = "") -> list[Path]:
    """The mistaken images whose true class the network held for least probable."""
    columns = min(5, len(predictions.worst))
    rows = -(-len(predictions.worst) // columns)
    figure = plotting.new(2.1 * columns + 0.4, 2.6 * rows + 0.8)
    figure.suptitle(f"{title}\nworst mistakes: what it is, what it was taken for, how surely")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, image, i in zip(grid, predictions.worst, predictions.mistakes()):
        axes.imshow(image, interpolation="nearest")
        true, taken = (
            predictions.classes[label]
            for label in (predictions.labels[i], predictions.predicted[i])
        )
        axes.set_title(f"{true}\n{taken}, {100 * predictions.confidence[i]:.0f} %", fontsize=10)
    return plotting.save(figure, path)


def _classes_csv(classes, matrix):
    rows = []
    for i, name in enumerate(classes):
        others = matrix[i].copy()
        others[i] = 0
        images, predicted = matrix[i].sum(), matrix[:, i].sum()
        rows.append(
            {
                "class": name,
                "images": images,
                "accuracy": f"{matrix[i, i] / images:.6f}" if images else "",
                "precision": f"{matrix[i, i] / predicted:.6f}" if predicted else "",
                "most_taken_for": classes[others.argmax()] if others.any() else "",
                "times": others.max(),
            }
        )
    return _csv(rows)


def _confusion_csv(classes, matrix):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")  # a class may be called "true"
    writer.writerow(["true", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, matrix))
    return text.getvalue()


def _mistakes_csv(predictions):
    names = predictions.names
    rows = [
        {
            "image": "" if names is None else names(int(i)),
            "true": predictions.classes[predictions.labels[i]],
            "predicted": predictions.classes[predictions.predicted[i]],
            "confidence": f"{predictions.confidence[i]:.6f}",
            "probability_of_true": f"{predictions.probabilities[i, predictions.labels[i]]:.6g}",
        }
        for i in predictions.mistakes()
    ]
    return _csv(rows, ("image", "true", "predicted", "confidence", "probability_of_true"))


def _csv(rows: list[dict], names=()) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
