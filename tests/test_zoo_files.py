"""Weights files: loading their networks, contradicting arguments, hostile files."""

import dataclasses
import os

from irnet_tf.model_config import get_model_config, set_model_config
from irnet_tf.models import cifar_resnet, vgg_small
from irnet_tf.preprocessing import DIGITS
from irnet_tf.weights import file, read, save_weights
import larq as lq
import numpy as np
import pytest
import tensorflow as tf
import zoo

NAME = "digits/resnet20_bireal_1w1a"
SHIPPED = f"{zoo.__path__[0]}/weights/digits_resnet20_bireal_1w1a.safetensors"


@pytest.fixture(scope="module")
def trained():
    return zoo.load(NAME)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.safetensors"


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype("float32")


def test_a_file_rebuilds_its_network(trained, path, x):
    save_weights(trained, path)
    model = zoo.load(path)
    assert np.array_equal(model(x), trained(x))
    assert get_model_config(model) == get_model_config(trained)
    config = get_model_config(model)
    assert (config.network, config.classes) == (NAME, tuple("0123456789"))
    assert config.preprocessing == DIGITS
    assert config.results["accuracy"] == pytest.approx(356 / 360)
    assert np.array_equal(zoo.load(NAME, str(path))(x), trained(x))


def test_a_file_of_a_builder_alone(path, x):
    model = cifar_resnet(20, num_classes=4, input_quantizer="ste_tern", structure="normal")
    save_weights(model, path)
    again = zoo.load(path)
    assert np.array_equal(again(x), model(x))
    assert get_model_config(again) == get_model_config(model)
    with pytest.raises(ValueError, match="structure is 'normal' in the file, but 'bireal' was"):
        zoo.load(NAME, path)
    with pytest.raises(ValueError, match="has no preprocessing"):
        zoo.load(path, include_preprocessing=True)


@pytest.mark.parametrize(
    ("argument", "value", "there"),
    [
        ("structure", "normal", "bireal"),
        ("padding", "symmetric", "same"),
        ("input_quantizer", "ste_tern", "ede_sign"),
        ("kernel_quantizer", "ste_sign", "libra_pb"),
        ("depth", 32, 20),
        ("weight_bits", 32, 1),
    ],
)
def test_arguments_that_contradict_the_file(argument, value, there):
    match = f"{argument} is {there!r} in the file, but {value!r} was passed"
    for network in (NAME, SHIPPED):
        with pytest.raises(ValueError, match=match):
            zoo.load(network, **{argument: value})


def test_arguments_that_agree_with_the_file(trained, x):
    arguments = {"padding": "same", "kernel_quantizer": "libra_pb", "num_classes": 10}
    model = zoo.load(NAME, input_quantizer=None, name="mine", **arguments)
    assert np.array_equal(model(x), trained(x)) and model.name == "mine"
    assert get_model_config(model).results == get_model_config(trained).results


@pytest.mark.parametrize("quantizer", ["ste_tern", lq.quantizers.SteTern(threshold_value=0.1)])
def test_other_quantizers_are_in_the_file(path, x, quantizer):
    model = zoo.load(NAME, None, input_quantizer=quantizer)
    save_weights(model, path)
    assert np.array_equal(zoo.load(NAME, path, input_quantizer=quantizer)(x), model(x))
    for other in ("ede_sign", lq.quantizers.SteTern(threshold_value=0.2)):
        with pytest.raises(ValueError, match="in the file, but .* was passed"):
            zoo.load(NAME, path, input_quantizer=other)


def test_number_and_names_of_classes(path, x):
    model = zoo.load(NAME, None, num_classes=3)
    set_model_config(model, dataclasses.replace(get_model_config(model), classes=("a", "b", "c")))
    save_weights(model, path)
    assert np.array_equal(zoo.load(NAME, path)(x), model(x))
    other = zoo.load(path, num_classes=5)
    assert other.output_shape == (None, 5) and get_model_config(other).classes is None


def test_files_without_a_model_config(path):
    inputs = tf.keras.layers.Input((3,))
    save_weights(tf.keras.Model(inputs, tf.keras.layers.Dense(2, name="fc")(inputs)), path)
    for arguments in ((path,), (str(path),), (NAME, path)):
        with pytest.raises(ValueError, match="has no model config"):
            zoo.load(*arguments)


def test_changed_weights_keep_no_results(path, x):
    model = zoo.load(NAME)
    model.get_layer("linear").bias.assign_add(tf.ones(10))
    save_weights(model, path)
    config = read(path).model_config
    assert config.results is config.recipe is config.data is config.training is None
    assert config.initialized_from == read(SHIPPED).sha256 and config.classes == tuple("0123456789")
    tuned = get_model_config(zoo.load(NAME, num_classes=3))
    assert tuned.initialized_from == read(SHIPPED).sha256 and tuned.results is None


def test_a_file_for_another_network(path, trained):
    save_weights(trained, path)
    with pytest.raises(ValueError, match=f"weights of '{NAME}', not of 'cifar10/resnet20_bireal"):
        zoo.load("cifar10/resnet20_bireal_1w1a", path)
    with pytest.raises(ValueError, match="got a second one"):
        zoo.load(path, path)
    for arguments in ((path.with_name("nothing.safetensors"),), (NAME, "")):
        with pytest.raises(FileNotFoundError):
            zoo.load(*arguments)
    save_weights(vgg_small(), path)
    with pytest.raises(ValueError, match="network.safetensors holds weights of 'vgg_small', not"):
        zoo.load(NAME, path)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in (tmp_path / "pipe.safetensors", "/dev/zero", tmp_path):
        with pytest.raises((ValueError, IsADirectoryError), match="not a regular file|directory"):
            zoo.load(NAME, name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 10**9},
        {"num_classes": -1},
        {"input_shape": [100_000, 100_000, 3]},
        {"input_shape": [1024, 1024, 3], "num_classes": 1000},
        {"input_shape": 3},
        {"input_shape": [32, 32, 1000]},
        {"depth": [20]},
        {"input_tensor": "x"},
        {"kernel_quantizer": {"class_name": "Lambda", "config": {}}},
        {"kernel_quantizer": {"class_name": "LibraPB", "config": {"t": "x"}}},
        {"classifier_activation": {"class_name": "Lambda", "config": {"function": "x"}}},
        {"classifier_activation": {"class_name": "function", "config": "system", "module": "os"}},
        {"kernel_quantizer": {"class_name": "LibraPB", "config": {}, "module": "os"}},
        {"kernel_quantizer": {"class_name": "LibraPB", "config": {"channel_axes": 10**10}}},
        {"input_quantizer": {"class_name": "DoReFaQuantizer", "config": {"k_bit": 10**12}}},
        {"padding": {}},
    ],
)
def test_limits_of_hostile_files(trained, path, arguments):
    config = get_model_config(trained)
    config = dataclasses.replace(config, arguments={**config.arguments, **arguments})
    path.write_bytes(file.to_bytes(read(SHIPPED).tensors, config))
    with pytest.raises(ValueError, match="network.safetensors"):
        zoo.load(path)


@pytest.mark.parametrize("t_max", [10**400, "3", True, 0])
def test_t_of_the_model_config(trained, path, t_max):
    config = dataclasses.replace(get_model_config(trained), recipe={"t_max": t_max})
    path.write_bytes(file.to_bytes(read(SHIPPED).tensors, config))
    with pytest.raises(ValueError, match="network.safetensors|t_max must be"):
        zoo.load(path)
