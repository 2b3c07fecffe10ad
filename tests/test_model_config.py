"""Model configs: a network can be built from its config, which Keras and weights files keep."""

import json

import irnet_tf
from irnet_tf.model_config import ModelConfig, get_model_config, register_builder, set_model_config
from irnet_tf.models import cifar_resnet, resnet, vgg_small
from irnet_tf.preprocessing import DIGITS
from irnet_tf.weights import save_weights
import larq as lq
import pytest
import tensorflow as tf
import zoo

SOFTMAX = tf.keras.activations.softmax


@pytest.mark.parametrize(
    "build, output, classifier",
    [
        (lambda: cifar_resnet(20, structure="normal", activation_bits=32), "logits", "linear"),
        (lambda: vgg_small(num_classes=3, input_shape=(16, 16, 3)), "logits", "fc"),
        (lambda: vgg_small(classifier_activation=tf.keras.activations.linear), "logits", "fc"),
        (lambda: vgg_small(classifier_activation=SOFTMAX), "probabilities", "fc"),
        (lambda: resnet(18, stem="cifar"), "logits", "linear"),
        (lambda: cifar_resnet(20, include_top=False), "logits", None),
        (lambda: vgg_small(kernel_quantizer=lq.quantizers.DoReFa(3)), "logits", "fc"),
        (lambda: vgg_small(input_quantizer=irnet_tf.EDESign(t=2.0)), "logits", "fc"),
    ],
)
def test_a_network_is_built_from_its_config_as_json(build, output, classifier):
    model = build()
    config = get_model_config(model)
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))).build()
    assert get_model_config(again) == config
    assert (config.output, config.classifier) == (output, classifier)
    if classifier:
        assert model.get_layer(classifier) is model.layers[-1]
    assert facts(again) == facts(model)


def facts(model):
    """Returns class, name, shape and quantizers of every layer."""
    kinds = ("kernel_quantizer", "input_quantizer")
    return [
        (type(x), x.name, x.output_shape, [type(getattr(x, kind, None)) for kind in kinds])
        for x in model.layers
    ]


def test_what_lies_before_an_input_tensor_is_not_described():
    images = cifar_resnet(20, include_top=False)
    assert get_model_config(vgg_small(input_tensor=images.input)) is None


@pytest.mark.parametrize(
    "values, says",
    [
        ([], "at least a builder"),
        ({"builder": 3, "arguments": {}}, "builder must be str, got 3"),
        ({"builder": "vgg_small", "arguments": {}, "colour": "red"}, "not colour"),
        ({"builder": "vgg_small", "arguments": {}, "output": "numbers"}, "output must be one of"),
        ({"builder": "vgg_small", "arguments": {}, "classes": "ab"}, "classes must be"),
        ({"builder": "vgg_small", "arguments": {}, "preprocessing": {}}, "preprocessing must be"),
    ],
)
def test_an_invalid_config_is_rejected(values, says):
    with pytest.raises(ValueError, match=says):
        ModelConfig.from_dict(values)


def test_an_unknown_builder_or_argument_is_named():
    with pytest.raises(ValueError, match="unknown builder 'vgg_smal'; did you mean vgg_small"):
        ModelConfig("vgg_smal", {}).build()
    with pytest.raises(ValueError, match="no argument 'depth'; it has weight_bits"):
        ModelConfig("vgg_small", {"depth": 20}).build()
    with pytest.raises(ValueError, match="a builder 'vgg_small' already"):
        register_builder("vgg_small", lambda: None)


@pytest.mark.parametrize("form", ["keras", "h5", "SavedModel", "clone", "nested"])
def test_keras_keeps_the_config(tmp_path, form):
    images = tf.keras.Input((4, 4, 3))
    model = tf.keras.Model(images, tf.keras.layers.Dense(2)(tf.keras.layers.Flatten()(images)))
    quantizer = {"class_name": "LibraPB", "config": {"t": 1.0}}
    config = ModelConfig("x", {"q": quantizer}, classes=("a", "b"), preprocessing=DIGITS, seed=1)
    set_model_config(model, config)
    if form == "clone":
        again = tf.keras.models.clone_model(model)
    else:
        path = str(tmp_path / {"h5": "m.h5", "SavedModel": "m"}.get(form, "m.keras"))
        outer = tf.keras.Model(images, model(images)) if form == "nested" else model
        outer.save(path)
        again = tf.keras.models.load_model(path)
        again = again.layers[-1] if form == "nested" else again
    assert get_model_config(again) == config
    set_model_config(again, ModelConfig("y"))
    assert get_model_config(model) == config


def test_quantizers_given_as_objects_keep_their_metrics_and_no_names(tmp_path):
    """Keras numbers names over a process; in mixed precision it keeps a policy beside them."""

    def build():
        return cifar_resnet(20, kernel_quantizer=irnet_tf.LibraPB(metrics=["flip_ratio"]))

    first, second = build(), build()
    assert get_model_config(first) == get_model_config(second)
    assert hasattr(first.get_layer("layer1.0.conv1").kernel_quantizer, "flip_ratio")
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        save_weights(build(), tmp_path / "x.safetensors")
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    zoo.load(tmp_path / "x.safetensors")
