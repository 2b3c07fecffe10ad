"""The networks: against the authors' numbers, and the contract that every one keeps."""

import subprocess
import sys

import irnet_tf
from irnet_tf import _compat, models
from irnet_tf.pytorch import load_pytorch_state_dict, pytorch_state_dict
import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import randomise_batch_norm
from tests.reference import BUILDERS, Reference


def assert_close(found, expected, name=""):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", BUILDERS)
def test_networks_are_the_authors(name, float64):
    """Evaluation, three SGD steps and the first step's gradients, in float64."""
    reference = Reference(name)
    meta, expected = reference.meta, reference.arrays
    model = reference.build()
    load_pytorch_state_dict(model, reference.state_dict)
    irnet_tf.set_ede(model, meta["t"])
    images, labels = tf.constant(reference.images), tf.constant(reference.labels)

    logits = model(images, training=False)
    assert_close(tf.nn.log_softmax(logits), expected["eval_log_probs"])

    variables = model.trainable_variables
    # By hand: Keras's SGD takes its momentum through float32.
    rate, momentum, decay = (
        tf.constant(meta[name], tf.float64) for name in ("lr", "momentum", "weight_decay")
    )
    momenta = [tf.Variable(tf.zeros_like(v)) for v in variables]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, variables)
        for gradient, variable, m in zip(gradients, variables, momenta):
            m.assign(momentum * m + gradient + decay * variable)
            variable.assign_sub(rate * m)
        return loss, logits, gradients

    losses = []
    for i in range(3):
        loss, logits, gradients = step()
        losses.append(float(loss))
        if i:
            continue
        assert_close(tf.nn.log_softmax(logits), expected["train_log_probs"])
        theirs = in_pytorch_layout(model, variables, gradients)
        after = pytorch_state_dict(model)
        for j, name in enumerate(reference.param_names):
            gradient = theirs[name]
            assert_close(gradient.ravel()[:24], expected[f"grad_head/{j}"], name)
            assert_close(np.linalg.norm(gradient), expected[f"grad_norm/{j}"], name)
            assert_close(gradient.sum(), expected[f"grad_sum/{j}"], name)
            assert_close(np.linalg.norm(after[name]), expected[f"param_after_1_norm/{j}"], name)
        for j, name in enumerate(reference.buffer_names):
            # Keras keeps 1 - momentum in float32; PyTorch's running variance is the unbiased one.
            rtol = 1e-7 if name.endswith("mean") else 0.1
            np.testing.assert_allclose(
                np.linalg.norm(after[name]), expected[f"buffer_norm/{j}"], rtol=rtol
            )
    assert_close(losses, expected["losses"])


def in_pytorch_layout(model, variables, values):
    """Values of trainable variables, such as gradients, under the authors' names."""
    before = model.get_weights()
    for variable, value in zip(variables, values):
        variable.assign(value)
    named = pytorch_state_dict(model)
    model.set_weights(before)
    return named


NETWORKS = {
    "vgg_small": (models.vgg_small, {}, 5),
    "cifar_resnet20_bireal": (models.cifar_resnet, {"depth": 20}, 18),
    "cifar_resnet20_normal": (models.cifar_resnet, {"depth": 20, "structure": "normal"}, 18),
    "resnet18_cifar": (models.resnet, {"depth": 18, "stem": "cifar"}, 16),
    "resnet18_imagenet": (models.resnet, {"depth": 18, "input_shape": (64, 64, 3)}, 16),
}


def build(name, **arguments):
    builder, defaults, _ = NETWORKS[name]
    return builder(**{**defaults, **arguments})


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(1, 1), (1, 32), (32, 32)])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_bit_layers_are_one_bit_and_first_and_last_are_not(name, weight_bits, activation_bits):
    model = build(name, weight_bits=weight_bits, activation_bits=activation_bits)
    convolutions = [x for x in model.layers if isinstance(x, lq.layers.QuantConv2D)]
    quantized = [x for x in convolutions if x.kernel_quantizer]
    assert len(quantized) == (NETWORKS[name][2] if weight_bits == 1 else 0)
    assert all(x.kernel.precision == 1 and x.kernel_size == (3, 3) for x in quantized)
    inputs = [x for x in convolutions if x.input_quantizer]
    assert len(inputs) == (NETWORKS[name][2] if activation_bits == 1 else 0)
    assert convolutions[0].kernel_quantizer is None and convolutions[0].input_quantizer is None
    assert isinstance(model.layers[-1], tf.keras.layers.Dense)
    hard = [x for x in model.layers if isinstance(x, irnet_tf.layers.HardTanh)]
    relu = [x for x in model.layers if isinstance(x, tf.keras.layers.ReLU)]
    assert (not relu and hard) if activation_bits == 1 else (not hard and relu)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("form", ["keras", pytest.param("h5", marks=pytest.mark.slow)])
def test_save_load_and_clone_without_custom_objects(name, form, tmp_path, rng):
    model = build(name, padding="symmetric" if form == "keras" else "same")
    randomise_batch_norm(model)
    irnet_tf.set_ede(model, 3.5)
    x = rng.standard_normal((2, *model.input_shape[1:])).astype("float32")
    expected = model(x).numpy()
    path = str(tmp_path / f"model.{form}")
    model.save(path)
    loaded = tf.keras.models.load_model(path, compile=False)
    np.testing.assert_array_equal(loaded(x), expected)
    assert {float(m.t) for m in loaded.submodules if hasattr(m, "t")} <= {3.5}
    clone = tf.keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(x), expected)


@pytest.mark.parametrize("depth", [32, 44, 56, pytest.param(110, marks=pytest.mark.slow)])
def test_deeper_cifar_resnets_have_6n_plus_2_layers(depth):
    model = models.cifar_resnet(depth)
    layers = [
        x for x in model.layers if isinstance(x, (tf.keras.layers.Conv2D, tf.keras.layers.Dense))
    ]
    assert len(layers) == depth


def test_float_parameter_counts_are_the_known_ones():
    """He et al.: 0.27M for ResNet-20; torchvision: 11,689,512 and 21,797,672 plus bn2."""
    float_bits = {"weight_bits": 32, "activation_bits": 32, "structure": "normal"}

    def trainable(model):
        return sum(int(np.prod(w.shape)) for w in model.trainable_weights)

    assert trainable(models.resnet(18, **float_bits)) == 11_689_512 + 2 * 512
    assert trainable(models.resnet(34, **float_bits)) == 21_797_672 + 2 * 512
    assert trainable(models.cifar_resnet(20, **float_bits)) == 269_722 + 2 * 64


def test_other_heads_and_inputs(rng):
    x = rng.standard_normal((1, 32, 32, 3)).astype("float32")
    assert models.cifar_resnet(20, include_top=False)(x).shape == (1, 8, 8, 64)
    assert models.resnet(18, include_top=False, input_shape=(64, 64, 3)).output_shape[1:3] == (2, 2)
    assert models.vgg_small(include_top=False)(x).shape == (1, 4, 4, 512)
    probabilities = models.cifar_resnet(20, num_classes=7, classifier_activation="softmax")(x)
    np.testing.assert_allclose(tf.reduce_sum(probabilities, -1), 1, rtol=1e-5)
    assert models.cifar_resnet(20, input_shape=(None, None, 1)).output_shape == (None, 10)
    start = tf.keras.Input((32, 32, 3))
    scaled = tf.keras.layers.Rescaling(1 / 255)(start)
    assert models.vgg_small(input_tensor=scaled).inputs[0] is start


def test_quantizers_can_be_replaced_and_are_not_shared():
    given = irnet_tf.LibraPB(t=2.0)
    model = models.cifar_resnet(20, kernel_quantizer=given, input_quantizer="approx_sign")
    layers = [x for x in model.layers if getattr(x, "kernel_quantizer", None)]
    assert len({id(x.kernel_quantizer) for x in layers}) == 18
    assert all(float(x.kernel_quantizer.t) == 2 for x in layers)
    assert all(isinstance(x.input_quantizer, lq.quantizers.ApproxSign) for x in layers)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.cifar_resnet(21), "depth must be one of 20, 32, 44, 56, 110, got 21"),
        (lambda: models.resnet(18, stem="cifar100"), "stem must be one of"),
        (lambda: models.cifar_resnet(20, structure="real"), "structure must be one of"),
        (lambda: models.vgg_small(weight_bits=2), "weight_bits must be one of 1, 32, got 2"),
        (lambda: models.vgg_small(activation_bits=True), "activation_bits must be"),
        (lambda: models.cifar_resnet(20, padding="valid"), "padding must be one of"),
        (lambda: models.vgg_small(input_shape=(4, 4, 3)), "at least 8 pixels"),
        (lambda: models.cifar_resnet(20, kernel_quantizer="libra_bp"), "did you mean libra_pb"),
        (
            lambda: models.cifar_resnet(20, weight_bits=32, kernel_quantizer="ste_sign"),
            "set weight_bits=1",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_larq_warns_once_of_weights_that_may_starve_and_never_of_ours(caplog, monkeypatch):
    monkeypatch.setattr(_compat, "_seen", set())
    for quantizer in ("libra_pb", "ede_sign", "balanced_sign"):
        lq.layers.QuantDepthwiseConv2D(3, depthwise_quantizer=quantizer)
        lq.layers.QuantDense(2, kernel_quantizer=quantizer)
    assert "starved" not in caplog.text
    for _ in range(3):
        lq.layers.QuantDense(2, kernel_quantizer="ste_sign")
    assert caplog.text.count("starved") == 1


def test_import_creates_no_tensor():
    """MultiWorkerMirroredStrategy fails if anything ran before."""
    code = (
        "import irnet_tf, zoo, irnet_tf.data, irnet_tf.training, irnet_tf.pytorch\n"
        "from tensorflow.python.eager import context\n"
        "assert not context.context()._initialized"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
