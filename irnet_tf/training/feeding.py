"""Batches of a run for every replica, and the evaluation of a model on all test images."""

from __future__ import annotations

from collections.abc import Callable

from irnet_tf import data as data_module
from irnet_tf.evaluation import preprocessing_of
from irnet_tf.model_config import gives_logits
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training.optimizer import compile_for_evaluation, totals
from irnet_tf.training.recipe import Recipe
from irnet_tf.weights import packed_size
import tensorflow as tf

_EVALUATION_BATCH = 500
_EVALUATION_PIXELS = 128 * 224**2  # at most, so that large images leave room for activations


def check_fits(model: tf.keras.Model, data: data_module.Data) -> None:
    """Raises ValueError unless the model gives one number a class of the data, and its weights
    can be kept in a file."""
    packed_size(model)
    if model.output_shape[1:] != (data.num_classes,):
        raise ValueError(
            f"{data.name} has {data.num_classes} classes, the network's output is "
            f"{list(model.output_shape[1:])} an image: give num_classes={data.num_classes}"
        )


def training_batches(
    model: tf.keras.Model,
    data: data_module.Data,
    recipe: Recipe,
    *,
    seed: int = 0,
    first_epoch: int = 0,
    first_step: int = 0,
    preprocessing: Preprocessing | None = None,
) -> tf.distribute.DistributedDataset:
    """The batches that `train` trains on, epoch behind epoch, for `fit` or a loop of one's own.

    They are repeated without end, so that workers need not ask each other whether there is more:
    tell `fit` the `steps_per_epoch`. Images are uint8; the training step of `compile_model`
    augments and normalises them on the device.

    Args:
        model: of whose strategy's replicas each gets its share.
        data: the data set; its training split is used.
        recipe: batch size, epochs and augmentation.
        seed: of order and augmentation.
        first_epoch, first_step: where to begin, from 0.
        preprocessing: of images; None: what the model's description says.

    Raises:
        ValueError: if the batch is larger than the split or cannot be shared evenly.
    """
    preprocessing = preprocessing_of(model, preprocessing)

    def batches(context):
        return data_module.training_batches(
            data.train,
            batch_size=recipe.batch_size,
            preprocessing=preprocessing,
            augmentation=recipe.augmentation,
            seed=seed,
            epochs=recipe.epochs,
            first_epoch=first_epoch,
            first_step=first_step,
            workers=context.num_input_pipelines,
            worker=context.input_pipeline_id,
            replicas=context.num_replicas_in_sync // context.num_input_pipelines,
            on_device=True,
        ).repeat()

    return model.distribute_strategy.distribute_datasets_from_function(batches)


class Evaluation:
    """Evaluates a model on all test images, again and again, with metrics of its own.

    The metrics of the model in training stay as they are, so that a run can be saved amid it.

    Args:
        model: a network from images to one number a class, built and functional.
        data: the data set; its test split is used.
        preprocessing: of images; None: what the model's description says.
        each_batch: called after each batch.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        data: data_module.Data,
        preprocessing: Preprocessing | None = None,
        each_batch: Callable[[], None] | None = None,
    ):
        preprocessing = preprocessing_of(model, preprocessing)
        most = _EVALUATION_PIXELS // preprocessing.size**2
        batch_size = max(1, min(_EVALUATION_BATCH, most))

        def batches(context):
            return data_module.evaluation_batches(
                data.test,
                batch_size=batch_size,
                preprocessing=preprocessing,
                workers=context.num_input_pipelines,
                worker=context.input_pipeline_id,
            )

        strategy = model.distribute_strategy
        with strategy.scope():
            self._model = tf.keras.Model(model.inputs, model.outputs)
        compile_for_evaluation(self._model, gives_logits(model))
        self._batches = strategy.distribute_datasets_from_function(batches)
        share = batch_size * strategy.num_replicas_in_sync
        self._steps = -(-data.test.num_examples // share)
        self._callbacks = []
        if each_batch:
            self._callbacks.append(
                tf.keras.callbacks.LambdaCallback(
                    on_test_batch_end=lambda batch, logs: each_batch()
                )
            )

    def __call__(self) -> dict[str, float]:
        """`loss`, `accuracy` and `top5`, as fractions, and how many `images`."""
        self._model.evaluate(self._batches, steps=self._steps, callbacks=self._callbacks, verbose=0)
        return totals(self._model)
