"""The zoo: names, recipes, loading."""

import dataclasses

from irnet_tf.model_config import get_model_config, set_model_config
from irnet_tf.weights import save_weights
import numpy as np
import pytest
import tensorflow as tf
import zoo
from zoo.registration import register, register_full_precision

DESIGN = {
    "digits/resnet20_bireal_1w1a",
    "cifar10/resnet20_bireal_1w1a", "cifar10/resnet20_normal_1w1a",
    "cifar10/resnet20_normal_1w32a", "cifar10/vgg_small_1w1a", "cifar10/resnet18_normal_1w1a",
    "imagenet/resnet18_bireal_1w1a", "imagenet/resnet18_normal_1w32a",
    "imagenet/resnet34_bireal_1w1a", "imagenet/resnet34_normal_1w32a",
}  # fmt: skip


def counterpart(name):
    return name.rsplit("_", 1)[0] + "_fp"


def test_every_network_of_the_design_and_its_full_precision_counterpart_are_there():
    ours = {name for name in zoo.list_models() if not name.startswith("larq_zoo/")}
    assert ours == DESIGN | {counterpart(name) for name in DESIGN}


@pytest.mark.parametrize("name", sorted(DESIGN))
def test_names_match_the_arguments(name):
    network = name.split("/")[1]
    bits = {"1w1a": (1, 1), "1w32a": (1, 32)}[network.rsplit("_", 1)[1]]
    arguments = zoo.info(name).config.arguments
    assert (arguments.get("weight_bits", 1), arguments.get("activation_bits", 1)) == bits
    if "resnet" in network:
        assert arguments["structure"] == network.split("_")[1]
        assert arguments["depth"] == int(network.split("_")[0].removeprefix("resnet"))
    float_arguments = {**arguments, "weight_bits": 32, "activation_bits": 32}
    assert zoo.info(counterpart(name)).config.arguments == float_arguments
    family = getattr(zoo, name.split("/")[0])
    assert callable(getattr(family, network))


def test_recipes_and_accuracies_are_the_published_ones():
    resnet20 = zoo.info("cifar10/resnet20_bireal_1w1a").recipe
    assert (resnet20.epochs, resnet20.batch_size, resnet20.learning_rate) == (400, 128, 0.1)
    assert (resnet20.t_min, resnet20.t_max, resnet20.weight_decay) == (1e-3, 10, 1e-4)
    assert zoo.info("cifar10/resnet20_normal_1w32a").recipe.t_min == 1e-1
    vgg = zoo.info("cifar10/vgg_small_1w1a").recipe
    assert (vgg.epochs, vgg.learning_rate, vgg.t_min) == (300, 0.007, 1e-1)
    decays = {n: zoo.info(n).recipe.weight_decay for n in DESIGN if n.startswith("imagenet")}
    assert {n for n, d in decays.items() if d == 1e-5} == {"imagenet/resnet18_bireal_1w1a"}
    recipe = zoo.info("imagenet/resnet34_normal_1w32a").recipe
    assert recipe.nesterov and recipe.batch_size == 2048
    assert recipe.epochs * 1_281_167 / 2048 == pytest.approx(62_500, rel=2e-3)
    assert zoo.info("cifar10/resnet20_bireal_1w1a").paper == (0.865,)
    assert zoo.info("imagenet/resnet18_bireal_1w1a").paper == (0.581, 0.800)
    assert zoo.info("imagenet/resnet34_normal_1w32a").paper == (0.704, 0.895)


def test_the_error_about_untrained_networks_has_the_command():
    name = "imagenet/resnet34_bireal_1w1a"
    with pytest.raises(ValueError, match=f"train.py --model={name}.*weights=None"):
        zoo.load(name)
    with pytest.raises(ValueError, match=f"train.py --model={name}"):
        zoo.imagenet.resnet34_bireal_1w1a()


@pytest.mark.parametrize("name", ["cifar10/vgg_smal_1w1a", "cifar10/resnet18_bireal_1w1a"])
def test_suggestions_come_from_the_same_family(name):
    with pytest.raises(ValueError, match="did you mean cifar10/") as error:
        zoo.load(name, None)
    assert "imagenet/" not in str(error.value)


def test_builder_arguments_go_through():
    model = zoo.cifar10.resnet20_bireal_1w1a(weights=None, num_classes=4, input_shape=(16, 16, 3))
    assert model.output_shape == (None, 4) and model.input_shape == (None, 16, 16, 3)


def features(model):
    return tf.keras.Model(model.input, model.get_layer("avgpool").input)


def test_another_classifier_gets_all_other_weights(rng):
    name = "digits/resnet20_bireal_1w1a"
    x = rng.uniform(-1, 1, (4, 32, 32, 3)).astype("float32")
    expected = features(zoo.load(name))(x)
    tuned, body = zoo.load(name, num_classes=3), zoo.load(name, include_top=False)
    assert (tuned.output_shape, body.output_shape) == ((None, 3), (None, 8, 8, 64))
    np.testing.assert_array_equal(features(tuned)(x), expected)
    np.testing.assert_array_equal(body(x), expected)
    images = tf.keras.Input((32, 32, 3))
    flipped = tf.keras.layers.Rescaling(-1.0, name="flipped")(images)
    behind = zoo.load(name, num_classes=3, input_tensor=flipped)
    assert behind.output_shape == (None, 3)
    np.testing.assert_array_equal(features(behind)(-x), expected)


@pytest.mark.slow
def test_t_of_trained_networks_is_that_at_the_end_of_the_run(tmp_path):
    def t(model):
        layer = model.get_layer("layer1.0.conv1")
        return float(layer.kernel_quantizer.t), float(layer.input_quantizer.t)

    model = zoo.load("digits/resnet20_bireal_1w1a")
    config = get_model_config(model)
    path = tmp_path / "x.safetensors"
    for ede, expected in ((True, 3), (False, 0.5)):
        recipe = {**config.recipe, "t_min": 0.5, "t_max": 3.0}
        changed = dataclasses.replace(config, recipe=recipe, training={"ede": ede})
        save_weights(set_model_config(model, changed), path)
        assert t(zoo.load(path)) == t(zoo.load(path, num_classes=3)) == (expected, expected)


def test_a_body_for_images_of_another_size(rng):
    """VGG-Small's classifier is for one size of images; the rest is not."""
    name = "cifar10/vgg_small_1w1a"
    trained = zoo.load(name)
    body = zoo.load(name, include_top=False, input_shape=(64, 64, 3))
    tuned = zoo.load(name, num_classes=3, input_shape=(64, 64, 3))
    assert body.input_shape == (None, 64, 64, 3) and tuned.output_shape == (None, 3)
    for other in (body, tuned):
        for a, b in zip(trained.layers, other.layers):
            if a.name != "fc":
                for v, w in zip(a.get_weights(), b.get_weights(), strict=True):
                    np.testing.assert_array_equal(v, w)
    images = tf.keras.Input((32, 32, 4))
    x = tf.keras.layers.Conv2D(3, 1, name="adapt")(images)
    adapted = zoo.load(name, input_tensor=x)
    x = rng.uniform(-1, 1, (2, 32, 32, 4)).astype("float32")
    inner = tf.keras.Model(images, adapted.get_layer("adapt").output)
    np.testing.assert_allclose(adapted(x), trained(inner(x)), atol=1e-4)


def test_listing():
    digits = ["digits/resnet20_bireal_1w1a", "digits/resnet20_bireal_fp"]
    assert zoo.list_models("digits") == zoo.list_models("digits/*") == digits
    assert zoo.list_models("digits", pretrained=True) == digits[:1]
    assert zoo.list_models("digits", pretrained=False) == digits[1:]
    assert zoo.list_models("larq_zoo", pretrained=True) == zoo.list_models("larq_zoo")
    assert zoo.list_models("cifar", pretrained=True) == []


def test_names_are_unique():
    name = "digits/resnet20_bireal_1w1a"
    entry = zoo.info(name)
    with pytest.raises(ValueError, match=f"already has a network '{name}'"):
        register(name, "cifar_resnet", {}, entry.recipe)
    with pytest.raises(ValueError, match="already has .*resnet20_bireal_fp"):
        register_full_precision(name)
    assert zoo.info(name) is entry
