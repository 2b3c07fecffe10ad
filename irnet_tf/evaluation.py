"""Evaluation of a network on the test images: metrics, and a report with tables and figures.

`report(model, data, out)` writes into the folder `out`:

    evaluation.json     accuracy, loss, calibration
    classes.txt         precision, recall, F1 score and images (support) of each class
    confusion.csv       confusion matrix: true classes in rows, predicted classes in columns
    mistakes.csv        all misclassified images, the most confident mistake first
    confusion, calibration, mistakes    as .png and .svg
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from irnet_tf import data as data_module
from irnet_tf import plotting
from irnet_tf._utils import csv_text, write_atomically
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
    config = get_model_config(model)
    preprocessing, shape = given or (config and config.preprocessing), model.input_shape[1:]
    if not preprocessing:
        raise ValueError(
            f"the network with input shape {shape} has no preprocessing; give preprocessing, an "
            "irnet_tf.preprocessing.Preprocessing"
        )
    size = preprocessing.size
    if len(shape) != 3 or shape[2] != 3 or not set(shape[:2]) <= {None, size}:
        raise ValueError(
            f"the network's input has shape {shape}, but its preprocessing gives size {size}; "
            "build it with that input_shape=(size, size, 3), or give preprocessing of another size"
        )
    return preprocessing


def evaluation_batches(
    model: tf.keras.Model, data: data_module.Data, preprocessing: Preprocessing | None = None
) -> tuple[tf.distribute.DistributedDataset, int]:
    """All test images once, and the number of steps: `validation_data` and `validation_steps`.

    Each replica of the model's strategy gets a part of each batch.

    Raises:
        ValueError: If there are more replicas than test images.
    """
    preprocessing = preprocessing_of(model, preprocessing)
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    if data.test.num_examples < replicas:
        raise ValueError(
            f"{replicas} replicas cannot share {data.test.num_examples} test images; use fewer "
            "devices (CUDA_VISIBLE_DEVICES)"
        )
    batch_size = max(2, min(_BATCH, _BATCH_PIXELS // preprocessing.size**2))
    steps = -(-data.test.num_examples // (batch_size * replicas))

    def batches(context):
        worker, num_workers = context.input_pipeline_id, context.num_input_pipelines
        images = len(range(worker, data.test.num_examples, num_workers))
        # Equal batches: layers fail on the empty batch of a replica for which no image is left.
        count = steps * replicas // num_workers
        return data_module.evaluation_batches(
            data.test,
            batch_size=batch_size,
            preprocessing=preprocessing,
            workers=num_workers,
            worker=worker,
        ).rebatch([images // count + (i < images % count) for i in range(count)])

    return strategy.distribute_datasets_from_function(batches), steps


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
        ValueError: If an image cannot be read, the preprocessing is unknown, or there are more
            replicas than images.
    """
    batches, steps = evaluation_batches(model, data, preprocessing)
    with model.distribute_strategy.scope():
        evaluator = tf.keras.Model(model.inputs, model.outputs)
        metrics = [
            tf.keras.metrics.SparseCategoricalCrossentropy(
                from_logits=gives_logits(model), dtype="float64"
            ),
            tf.keras.metrics.SparseCategoricalAccuracy(dtype="float64"),
            # TensorFlow's in_top_k takes float32 only.
            tf.keras.metrics.SparseTopKCategoricalAccuracy(5, dtype="float32"),
        ]
        evaluator.compile(metrics=metrics)
    with data_module.report_unreadable_images(data):
        evaluator.evaluate(batches, steps=steps, verbose=0)
    count = data.test.num_examples
    loss, accuracy, top5 = (float(metric.result()) for metric in metrics)
    top5 = round(top5 * count) / count  # the exact fraction
    return {"loss": loss, "accuracy": accuracy, "top5": top5, "images": count}


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
    """
    from sklearn import metrics

    preprocessing = preprocessing_of(model, preprocessing)
    data.check_classes(classes_of(model))
    probabilities, labels = _predict(model, data, preprocessing)
    classes = tuple(data.class_names)
    every = range(len(classes))
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    true = probabilities[np.arange(len(labels)), labels]
    mistakes = np.lexsort([true, -confidence])
    mistakes = mistakes[(predicted != labels)[mistakes]]
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
    rows = [(name, *row) for name, row in zip(classes, matrix)]
    write_atomically(out / "confusion.csv", csv_text(("true", *classes), rows))
    rows = [
        (data.test.describe(int(i)), classes[labels[i]], classes[predicted[i]])
        + (f"{confidence[i]:.6f}", f"{true[i]:.6g}")
        for i in mistakes
    ]
    names = ("image", "true", "predicted", "confidence", "probability_of_true")
    write_atomically(out / "mistakes.csv", csv_text(names, rows))
    title = f"{title} on {data.name}" if title else data.name
    if len(matrix) <= _MAX_DRAWN_CLASSES:
        draw_confusion(classes, matrix, out / "confusion", title)
    _draw_calibration(curve, confidence, error, out / "calibration", title)
    if rows:
        pictures = _pictures(data.test, mistakes[:_MAX_PICTURES], preprocessing)
        _draw_mistakes(pictures, rows, out / "mistakes", title)
    return summary


def _predict(model, data, preprocessing):
    """Probabilities, in float64, and labels of all test images."""
    from scipy.special import softmax

    batches, _ = evaluation_batches(model, data, preprocessing)
    predict = tf.function(model)
    with data_module.report_unreadable_images(data):
        found = [(predict(images, training=False), labels) for images, labels in batches]
    outputs, labels = map(np.concatenate, zip(*found))
    outputs = outputs.astype(np.float64)
    return softmax(outputs, 1) if gives_logits(model) else outputs / outputs.sum(1)[:, None], labels


def _pictures(split, indices, preprocessing):
    """The images `[n, size, size, 3]` of a split at these indices, 0 to 1."""
    first = "read" if split.open is None else "open"  # the function that takes an index
    function = getattr(split, first)
    chosen = {first: lambda i: function(tf.gather(indices, i)), "num_examples": len(indices)}
    [(images, _)] = data_module.evaluation_batches(
        dataclasses.replace(split, **chosen), batch_size=len(indices), preprocessing=preprocessing
    )
    return np.clip(images * preprocessing.std + preprocessing.mean, 0, 1)


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
