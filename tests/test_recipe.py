"""Recipes: ranges of their fields, learning rate schedules, derived recipes."""

import dataclasses

from irnet_tf.models import vgg_small
from irnet_tf.training import Recipe, compile_model
import pytest
import zoo

RECIPE = Recipe("digits", epochs=2, batch_size=4, learning_rate=0.1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be"),
        ({"learning_rate": 0.0}, "learning_rate must be at least"),
        ({"learning_rate": 1e39}, "learning_rate must be .* below 1e\\+37, got 1e\\+39"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"classifier_lr_scale": 0.0}, "classifier_lr_scale"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"mixed_precision": "bfloat16"}, "mixed_precision must be one of"),
        ({"lr_schedule": "exponential"}, "lr_schedule must be one of"),
        ({"t_max": 0.01}, "t_min <= t_max"),
        ({"decay_at": (7.0,)}, "decay_at"),
        ({"augmentation": "nope"}, "augmentation must be one of"),
    ],
)
def test_values_out_of_range_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPE, **change)


def test_linear_schedule():
    lr = RECIPE.replace(lr_schedule="linear").learning_rate_schedule(steps_per_epoch=50)
    assert [float(lr(step)) for step in (0, 25, 100)] == pytest.approx([0.1, 0.075, 0.0])


@pytest.mark.parametrize(
    "change, lr, start",
    [
        ({"batch_size": 8}, 0.2, 0.04),
        ({"batch_size": 8, "warmup_start_lr": 0.01}, 0.2, 0.01),
        ({"batch_size": 8, "learning_rate": 0.05}, 0.05, 0.01),
        ({"warmup_start_lr": 0.03}, 0.1, 0.03),
    ],
)
def test_learning_rate_scales_with_the_batch_size(change, lr, start):
    recipe = dataclasses.replace(RECIPE, warmup=0.1, warmup_start_lr=0.02, scale_lr_with_batch=True)
    changed = recipe.replace(**change)
    assert (changed.learning_rate, changed.warmup_start_lr) == pytest.approx((lr, start))


def test_classifier_has_its_own_learning_rate():
    model = compile_model(vgg_small(), RECIPE.replace(classifier_lr_scale=0.1), 1)
    assert model.optimizer.lr_scales == {"fc/kernel:0": 0.1, "fc/bias:0": 0.1}
    assert compile_model(vgg_small(), RECIPE, 1).optimizer.lr_scales == {}


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_network_has_a_recipe_to_finetune(name):
    recipes = zoo.info(name).recipes
    recipe, base = recipes["finetune"], recipes.get("fast", recipes["paper"])
    assert recipe.t_min == recipe.t_max == base.t_max
    assert (recipe.epochs, recipe.learning_rate, recipe.warmup) == (30, 0.01, 0)
    assert 16 <= recipe.batch_size <= 32 and recipe.augmentation == base.augmentation
