"""Evaluation of a network on the test images: metrics, and a report with tables and figures.

`report(model, data, out)` writes into the folder `out`:

    evaluation.json     accuracy, loss, calibration
    classes.txt         precision, recall, F1 score and images (support) of each class
    confusion.csv       confusion matrix: true classes in rows, predicted classes in columns
    mistakes.csv        all misclassified images, the most confident mistake first
    confusion, calibration, mistakes    as .png and .svg
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

from irnet_tf import data as data_module
from irnet_tf import plotting
from irnet_tf._utils import write_atomically
from irnet_tf.layers import check_takes_normalised_images
from irnet_tf.model_config import classes_of, get_model_config, gives_logits
from irnet_tf.preprocessing import Preprocessing
import numpy as np
import tensorflow as tf

_BATCH = 500
_BATCH_PIXELS = 128 * 224**2  # limit per batch, because of the activations of large images
_BINS = 15  # of confidence, as usual for the expected calibration error
_MAX_PICTURES = 20
_MAX_DRAWN_CLASSES = 60


def preprocessing_of(model: tf.keras.Model, given: Preprocessing | None = None) -> Preprocessing:
    """The preprocessing of a model: the given one, else the model config's.

    Raises:
        ValueError: If neither exists, the model's input is not `(size, size, 3)` with the
            preprocessing's size, or the model already contains its preprocessing.
    """
    if given is None:
        check_takes_normalised_images(model)
    shape = model.input_shape[1:]
    if len(shape) != 3 or shape[2] != 3 or None not in shape[:2] and shape[0] != shape[1]:
        raise ValueError(
            f"the network's input has shape {shape}; build it with input_shape=(size, size, 3)"
        )
    config = get_model_config(model)
    preprocessing = given or (config and config.preprocessing)
    if not preprocessing:
        raise ValueError(
            "the network's preprocessing is unknown; give preprocessing, an "
            "irnet_tf.preprocessing.Preprocessing"
        )
    if size := set(shape[:2]) - {None, preprocessing.size}:
        raise ValueError(
            f"the network's input has shape {shape}, but its preprocessing gives size "
            f"{preprocessing.size}; give one with size={size.pop()}"
        )
    return preprocessing


def evaluate(
    model: tf.keras.Model,
    data: data_module.Data,
    *,
    preprocessing: Preprocessing | None = None,
) -> dict[str, float]:
    """Loss and accuracy over all test images, on all replicas of the model's strategy.

    The model's own loss and metrics (`compile`) are not used and do not change.

    Args:
        model: Network from images `[batch, size, size, 3]` to logits or probabilities
            `[batch, classes]`.
        data: Data set; the test split is used.
        preprocessing: Preprocessing of the images; None: the model config's.

    Returns:
        `loss` in nats, `accuracy` and `top5` as fractions, and the number of `images`.

    Raises:
        ValueError: If an image cannot be read or the preprocessing is unknown.
    """
    preprocessing = preprocessing_of(model, preprocessing)
    batch_size = _batch_size(preprocessing)
    strategy = model.distribute_strategy
    cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(
        gives_logits(model), reduction="none"
    )

    def batches(context):
        return data_module.evaluation_batches(
            data.test,
            batch_size=batch_size,
            preprocessing=preprocessing,
            workers=context.num_input_pipelines,
            worker=context.input_pipeline_id,
        )

    def sums(images, labels):
        outputs = tf.cast(model(images, training=False), tf.float32)
        labels = tf.cast(labels, tf.int32)
        values = (
            cross_entropy(labels, outputs),
            tf.argmax(outputs, -1, tf.int32) == labels,
            tf.math.in_top_k(labels, outputs, 5),
            tf.ones_like(labels),
        )
        return tf.stack([tf.reduce_sum(tf.cast(value, tf.float64)) for value in values])

    def sums_or_zero(images, labels):  # the last batch may leave a replica without an image
        empty = tf.zeros([4], tf.float64)
        return tf.cond(tf.size(labels) > 0, lambda: sums(images, labels), lambda: empty)

    @tf.function
    def step(iterator):
        return strategy.reduce("SUM", strategy.run(sums_or_zero, next(iterator)), axis=None)

    steps = -(-data.test.num_examples // (batch_size * strategy.num_replicas_in_sync))
    with data_module.report_unreadable_images(data):
        iterator = iter(strategy.distribute_datasets_from_function(batches))
        total = sum(step(iterator).numpy() for _ in range(steps))
    loss, accuracy, top5 = (float(value) for value in total[:3] / total[3])
    return {"loss": loss, "accuracy": accuracy, "top5": top5, "images": int(total[3])}


def report(
    model: tf.keras.Model,
    data: data_module.Data,
    out: str | os.PathLike,
    *,
    preprocessing: Preprocessing | None = None,
    title: str = "",
) -> dict:
    """Evaluate on all test images; write the tables and figures listed in the module docstring.

    Args:
        model, data, preprocessing: As for `evaluate`, on one replica.
        out: Output folder; created if missing.
        title: Title of the figures, such as the network's name.

    Returns:
        The content of evaluation.json: `images`, `accuracy`, `loss`, `mean_confidence`,
        `expected_calibration_error`, and `top5` for more than five classes.

    Raises:
        ValueError: As `evaluate`, or if the model has other classes than the data.
        OSError: If a file cannot be written.
    """
    from sklearn import metrics

    preprocessing = preprocessing_of(model, preprocessing)
    data.check_classes(classes_of(model))
    probabilities, labels, pictures = _predict(model, data, preprocessing)
    classes = tuple(data.class_names)
    every = range(len(classes))
    predicted, confidence, true, mistakes = _mistakes(probabilities, labels)
    error, curve = _calibration(confidence, predicted == labels)
    summary = {
        "data": data.name,
        "images": len(labels),
        "accuracy": metrics.accuracy_score(labels, predicted),
        "loss": metrics.log_loss(labels, probabilities, labels=every),
        "mean_confidence": float(confidence.mean()),
        "expected_calibration_error": error,
    }
    if len(classes) > 5:
        summary["top5"] = metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=every)
    matrix = metrics.confusion_matrix(labels, predicted, labels=every)
    table = metrics.classification_report(
        labels, predicted, labels=every, target_names=classes, digits=4, zero_division=np.nan
    )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    write_atomically(out / "classes.txt", table)
    _write_csv(
        out / "confusion.csv", ("true", *classes), [(n, *row) for n, row in zip(classes, matrix)]
    )
    rows = [
        (data.test.describe(int(i)), classes[labels[i]], classes[predicted[i]])
        + (f"{confidence[i]:.6f}", f"{true[i]:.6g}")
        for i in mistakes
    ]
    names = ("image", "true", "predicted", "confidence", "probability_of_true")
    _write_csv(out / "mistakes.csv", names, rows)
    title = f"{title} on {data.name}" if title else data.name
    if len(matrix) <= _MAX_DRAWN_CLASSES:
        draw_confusion(classes, matrix, out / "confusion", title)
    _draw_calibration(curve, confidence, error, out / "calibration", title)
    if pictures:
        _draw_mistakes(pictures, rows, out / "mistakes", title)
    return summary


def _batch_size(preprocessing):
    return max(1, min(_BATCH, _BATCH_PIXELS // preprocessing.size**2))


def _predict(model, data, preprocessing):
    """Probabilities and labels of all test images, and pictures of the worst mistakes."""
    logits = gives_logits(model)

    @tf.function(reduce_retracing=True)
    def probabilities(images):
        outputs = tf.cast(model(images, training=False), tf.float64)
        return tf.nn.softmax(outputs) if logits else outputs / tf.reduce_sum(outputs, -1)[:, None]

    found, truths, worst = [], [], []
    batches = data_module.evaluation_batches(
        data.test, batch_size=_batch_size(preprocessing), preprocessing=preprocessing
    )
    with data_module.report_unreadable_images(data):
        for images, labels in batches:
            found.append(probabilities(images).numpy())
            truths.append(labels.numpy())
            _, confidence, true, mistakes = _mistakes(found[-1], truths[-1])
            pixels = np.clip(images * preprocessing.std + preprocessing.mean, 0, 1)
            worst += [(-confidence[i], true[i], pixels[i]) for i in mistakes[:_MAX_PICTURES]]
            worst = sorted(worst, key=lambda mistake: mistake[:2])[:_MAX_PICTURES]
    return np.concatenate(found), np.concatenate(truths), [mistake[2] for mistake in worst]


def _mistakes(probabilities, labels):
    """Predicted classes, their probabilities, those of the true classes, and the indices of
    misclassified images, the most confident mistake first."""
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    true = probabilities[np.arange(len(labels)), labels]
    order = np.lexsort([true, -confidence])
    return predicted, confidence, true, order[(predicted != labels)[order]]


def _calibration(confidence, correct):
    """The expected calibration error; accuracy and mean confidence of each non-empty bin."""
    from sklearn.calibration import calibration_curve

    accuracy, mean = calibration_curve(correct, confidence, n_bins=_BINS)
    bins = np.searchsorted(np.linspace(0, 1, _BINS + 1)[1:-1], confidence)
    _, count = np.unique(bins, return_counts=True)
    return float(np.average(np.abs(accuracy - mean), weights=count)), (mean, accuracy)


def draw_confusion(classes, matrix: np.ndarray, path, title: str = "") -> list[Path]:
    """Draw the confusion matrix as percentages of each row, to `path`.png and `path`.svg."""
    count = len(classes)
    side = min(12, 3 + 0.5 * count)
    figure = plotting.new(side + 1, side)
    axes = figure.subplots()
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    mesh = axes.pcolormesh(share, cmap="Greys", vmin=0, vmax=100, edgecolors="0.7", linewidth=0.5)
    figure.colorbar(mesh, ax=axes, label="% of the images of the true class", shrink=0.8)
    if count <= 20:
        for i, j in zip(*np.nonzero(matrix)):
            colour = "white" if share[i, j] > 50 else "black"
            text = f"{share[i, j]:.0f}" if share[i, j] >= 1 else "<1"
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(np.arange(count) + 0.5, classes, rotation=90)
    axes.set_yticks(np.arange(count) + 0.5, classes)
    axes.set(xlabel="predicted class", ylabel="true class", title=title, aspect="equal")
    axes.invert_yaxis()
    return plotting.save(figure, path)


def _draw_calibration(curve, confidence, error, path, title):
    figure = plotting.new(6.5, 6.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 100], [0, 100], color="0.5", linestyle="--", label="perfect calibration")
    above.plot(*(100 * np.array(curve)), label="network", **plotting.style(0))
    above.set_ylabel("accuracy, %")
    above.set_title(f"{title}\nexpected calibration error {100 * error:.1f} %")
    above.legend(frameon=False)
    share = np.full(len(confidence), 100 / len(confidence))
    below.hist(100 * confidence, _BINS, (0, 100), weights=share, color="0.4", ec="white")
    below.set(xlabel="confidence in the predicted class, %", ylabel="images, %", xlim=(0, 100))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    plotting.save(figure, path)


def _draw_mistakes(pictures, rows, path, title):
    columns = min(5, len(pictures))
    lines = -(-len(pictures) // columns)
    figure = plotting.new(2.1 * columns + 0.4, 2.6 * lines + 0.8)
    figure.suptitle(f"{title}\nworst mistakes: true class; predicted class and confidence")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, image, (_, true, predicted, confidence, _) in zip(grid, pictures, rows):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(f"{true}\n{predicted}, {100 * float(confidence):.0f} %", fontsize=10)
    plotting.save(figure, path)


def _write_csv(path, names, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *rows])
    write_atomically(path, text.getvalue())
