"""Recipes: their ranges, and which part of a network gets which decay and rate."""

import dataclasses

from irnet_tf.models import cifar_resnet, resnet, vgg_small
from irnet_tf.training import Recipe
from irnet_tf.training.groups import decays_and_rates, init_residual_gammas
import pytest

RECIPE = Recipe("digits", epochs=2, batch_size=4, learning_rate=0.1)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"learning_rate": 0.0}, "learning_rate must be at least"),
        ({"learning_rate": 1e39}, "learning_rate must be .* below 1e\\+37, got 1e\\+39"),
        ({"learning_rate": 1e-50}, "learning_rate must be at least 1e-37"),
        ({"weight_decay": 1e39}, "weight_decay"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"binary_weight_decay": -1.0}, "binary_weight_decay must be at least 0"),
        ({"classifier_lr_scale": 0.0}, "classifier_lr_scale"),
        ({"residual_gamma_init": -0.3}, "residual_gamma_init"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"mixed_precision": "bfloat16"}, "mixed_precision must be one of"),
        ({"lr_schedule": "exponential"}, "lr_schedule must be one of"),
        ({"activation_t_max": 0.01}, "t_min <= t_max"),
        ({"decay_at": (7.0,)}, "decay_at"),
        ({"augmentation": "nope"}, "augmentation must be one of"),
    ],
)
def test_values_out_of_range_are_named(change, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(RECIPE, **change)


def test_a_linear_rate_falls_linearly():
    rate = RECIPE.replace(lr_schedule="linear").learning_rate_schedule(steps_per_epoch=50)
    assert [float(rate(step)) for step in (0, 25, 100)] == pytest.approx([0.1, 0.075, 0.0])


def test_the_warm_up_begins_where_it_is_told_to_or_follows_the_rate():
    recipe = dataclasses.replace(RECIPE, warmup=0.1, warmup_start_lr=0.02, scale_lr_with_batch=True)
    for change, rate, start in (
        ({"batch_size": 8}, 0.2, 0.04),
        ({"batch_size": 8, "warmup_start_lr": 0.01}, 0.2, 0.01),
        ({"batch_size": 8, "learning_rate": 0.05}, 0.05, 0.01),
        ({"warmup_start_lr": 0.03}, 0.1, 0.03),
    ):
        changed = recipe.replace(**change)
        assert (changed.learning_rate, changed.warmup_start_lr) == pytest.approx((rate, start))


def test_activations_have_a_sharpness_of_their_own_if_asked_for():
    assert RECIPE.activation_ede == RECIPE.ede
    assert RECIPE.replace(activation_t_max=3.0).activation_ede(1.0) == pytest.approx(3.0)
    assert RECIPE.replace(activation_t_max=3.0).ede(1.0) == pytest.approx(10.0)


def test_binary_kernels_batch_norms_and_the_classifier_can_be_treated_apart():
    recipe = RECIPE.replace(
        binary_weight_decay=0.5, batch_norm_weight_decay=0.25, classifier_lr_scale=0.1
    )
    groups = decays_and_rates(vgg_small(), recipe)
    assert groups["conv1/kernel:0"] == (0.5, 1.0)
    assert groups["conv0/kernel:0"] == (1e-4, 1.0)
    assert groups["bn3/gamma:0"] == groups["bn3/beta:0"] == (0.25, 1.0)
    assert groups["fc/kernel:0"] == groups["fc/bias:0"] == (1e-4, 0.1)
    assert set(decays_and_rates(vgg_small(), RECIPE).values()) == {(1e-4, 1.0)}


@pytest.mark.parametrize(
    "model, expected",
    [
        (
            lambda: cifar_resnet(20),
            {f"layer{s}.{b}.bn{n}" for s in (1, 2, 3) for b in (0, 1, 2) for n in (1, 2)},
        ),
        (
            lambda: cifar_resnet(20, structure="normal"),
            {f"layer{s}.{b}.bn2" for s in (1, 2, 3) for b in (0, 1, 2)},
        ),
        (
            lambda: resnet(18, stem="cifar", structure="normal"),
            {f"layer{s}.{b}.bn2" for s in (1, 2, 3, 4) for b in (0, 1)},
        ),
        (lambda: vgg_small(), set()),
    ],
)
def test_batch_norms_at_the_end_of_residual_branches_begin_smaller(model, expected):
    model = model()
    assert set(init_residual_gammas(model, 0.3)) == expected
    for layer in model.layers:
        if hasattr(layer, "gamma"):
            begins = 0.3 if layer.name in expected else 1.0
            assert layer.gamma.numpy() == pytest.approx(begins), layer.name
