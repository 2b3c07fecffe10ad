"""Batches of a run for each replica of a model's strategy."""

from __future__ import annotations

from irnet_tf import data as data_module
from irnet_tf.evaluation import preprocessing_of
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training.recipe import Recipe
import tensorflow as tf


def training_batches(
    model: tf.keras.Model,
    data: data_module.Data,
    recipe: Recipe,
    *,
    seed: int = 0,
    first_epoch: int = 0,
    preprocessing: Preprocessing | None = None,
) -> tf.distribute.DistributedDataset:
    """The batches that `train` trains on, for `Model.fit`.

    The dataset repeats without end: give `fit` the `steps_per_epoch`. Its images are uint8; the
    training step of `compile_model` augments and normalises them on the device.

    Args:
        model: Model; each replica of its strategy gets a share of each batch.
        data: Data set; the training split is used.
        recipe: Batch size, epochs and augmentation.
        seed: Seed of order and augmentation.
        first_epoch: First epoch, from 0; the `initial_epoch` of `fit`.
        preprocessing: Preprocessing of the images; None: the model config's.

    Raises:
        ValueError: If the replicas cannot share a batch evenly.
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
            workers=context.num_input_pipelines,
            worker=context.input_pipeline_id,
            replicas=context.num_replicas_in_sync // context.num_input_pipelines,
            on_device=True,
        ).repeat()

    return model.distribute_strategy.distribute_datasets_from_function(batches)
