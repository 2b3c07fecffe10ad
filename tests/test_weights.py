"""1-bit weights files: exact, small, and rejected if anything is wrong with them."""

import functools
import json
import os
import pickle
import threading
import time

import irnet_tf
from irnet_tf import models
from irnet_tf.model_config import ModelConfig, get_model_config
from irnet_tf.quantizers import libra_pb
from irnet_tf.weights import build_model, file, load_weights, read, save_weights
import larq as lq
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

RESNET20 = functools.partial(models.cifar_resnet, 20)


def randomise(model, seed=0):
    """Weights unlike any initialisation, batch norm statistics too."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        values = []
        for variable in layer.weights:
            z = rng.standard_normal(variable.shape)
            if "variance" in variable.name:
                z = 1000 * np.exp(0.3 * z)  # about what binary convolutions give
            elif "gamma" in variable.name:
                z = 1 + 0.2 * z
            elif "kernel" in variable.name:
                # Heavier tails from channel to channel, and a mean.
                z = 0.05 * np.sign(z) * np.abs(z) ** rng.uniform(0.5, 4, z.shape[-1]) + 0.01
            values.append(z)
        layer.set_weights(values)
    return model


def images(model, seed=1):
    shape = (2, *model.input_shape[1:])
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def values(model):
    return [w.copy() for w in model.get_weights()]


def same(a, b):
    return len(a) == len(b) and all(map(np.array_equal, a, b))


def dense(n=9, channels=3, dtype=None):
    """One 1-bit dense layer: the smallest network."""
    inputs = tf.keras.layers.Input((n,))
    layer = lq.layers.QuantDense(
        channels, kernel_quantizer="libra_pb", use_bias=False, name="dense", dtype=dtype
    )
    return tf.keras.Model(inputs, layer(inputs))


def small(n=9, channels=3):
    """A 1-bit dense layer and a batch norm."""
    model = dense(n, channels)
    x = tf.keras.layers.BatchNormalization(name="bn")(model.output)
    return randomise(tf.keras.Model(model.input, x))


def craft(path, tensors):
    """Writes a file with a correct SHA-256 and any tensors."""
    path.write_bytes(file.to_bytes(tensors, None))
    return path


def craft_dense(path, plus, exponents):
    rows = np.concatenate(
        [np.int8(exponents).view(np.uint8)[:, None], np.packbits(plus.T, axis=1)], axis=1
    )
    std = np.array([0.05], np.float32)
    return craft(path, {"dense.kernel_1bit": rows, "latent_std": std})


@pytest.fixture(scope="module")
def trained():
    return randomise(RESNET20())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.safetensors"


# ---- right files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "max_bytes"),
    [
        # 1 bit a weight, 1 byte a channel, 4 bytes a float, and the header
        (RESNET20, 268_336 / 8 + 688 + 4 * 4_100 + 8192),
        (functools.partial(RESNET20, structure="normal", activation_bits=32), 58_800),
        (models.vgg_small, 4_574_208 / 8 + 4 * 98_000 + 8192),
    ],
    ids=["resnet20", "resnet20_1w32a", "vgg_small"],
)
def test_a_network_comes_back_bit_for_bit_from_a_small_file(build, max_bytes, path):
    model = randomise(build())
    x = images(model)
    expected = model(x, training=False).numpy()
    assert np.isfinite(expected).all() and expected.std() > 0
    save_weights(model, path)
    assert path.stat().st_size <= max_bytes

    randomise(model, seed=2)
    assert not np.array_equal(model(x, training=False), expected)
    assert load_weights(model, path).model_config == get_model_config(model)
    assert np.array_equal(model(x, training=False), expected)


def test_the_file_says_what_libra_pb_makes_of_the_weights(trained, path):
    """By hand, from the docstring: another program could read it."""
    save_weights(trained, path)
    tensors = safetensors.numpy.load_file(path)
    checked = 0
    for layer in trained.layers:
        if not getattr(layer, "kernel_quantizer", None):
            continue
        w = layer.get_weights()[0].astype(np.float64)
        w = w.reshape(-1, w.shape[-1])
        w_hat = w - w.mean(0)
        w_std = w_hat / w_hat.std(0, ddof=1)
        rows = tensors[f"{layer.name}.kernel_1bit"]
        signs = np.unpackbits(rows[:, 1:], axis=1)[:, : len(w)].T
        assert np.array_equal(signs, w_hat >= 0)
        log2 = np.log2(np.abs(w_std).mean(0))
        assert np.array_equal(rows[:, 0].view(np.int8), np.round(log2))
        checked += 1
    assert checked == 18
    norm = trained.get_layer("bn2").get_weights()
    assert np.array_equal(tensors["bn2.batch_norm"], np.stack(norm))
    assert np.array_equal(tensors["linear.kernel"], trained.get_layer("linear").get_weights()[0])


def test_files_are_deterministic_and_stay_the_same_when_loaded_and_saved(trained, path):
    save_weights(trained, path)
    first = path.read_bytes()
    save_weights(trained, path)
    assert path.read_bytes() == first
    other = RESNET20()
    load_weights(other, path)
    save_weights(other, path)
    old, new = safetensors.numpy.load(first), safetensors.numpy.load_file(path)
    assert old.keys() == new.keys()
    for name in old:
        assert np.allclose(old[name], new[name], rtol=1e-6, atol=0), name


class Half(irnet_tf.LibraPB):
    def call(self, inputs):
        return super().call(inputs) / 2


@pytest.mark.parametrize(
    ("layer", "quantizer", "stored"),
    [
        (lq.layers.QuantConv2D, irnet_tf.LibraPB(channel_axes=2), "layer.kernel_1bit"),
        # Its output channels are not on its last axis: it is stored as float32.
        (lq.layers.QuantConv2DTranspose, "libra_pb", "layer.kernel"),
        (lq.layers.QuantConv2D, "magnitude_aware_sign", "layer.kernel"),
        (lq.layers.QuantConv2D, Half(), "layer.kernel"),
    ],
)
def test_kernels_with_other_axes_or_quantizers(path, layer, quantizer, stored):
    inputs = tf.keras.layers.Input((4, 4, 3))
    outputs = layer(5, 3, kernel_quantizer=quantizer, name="layer")(inputs)
    model = randomise(tf.keras.Model(inputs, outputs))
    x = images(model)
    expected = model(x)
    save_weights(model, path)
    assert stored in read(path).tensors
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    load_weights(model, path)
    assert np.array_equal(model(x), expected)


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16", "float16"])
def test_other_types_compute_the_same_too(policy, path):
    tf.keras.mixed_precision.set_global_policy(policy)
    model, other = (randomise(small(144, 64), seed) for seed in (0, 1))
    # What a file cannot hold is more than float32.
    model.set_weights([w.astype(np.float32) for w in model.get_weights()])
    save_weights(model, path)
    x = images(model)
    expected = model(x, training=False).numpy()
    assert np.isfinite(expected).all()
    assert not np.array_equal(other(x, training=False), expected)
    load_weights(other, path)
    assert np.array_equal(other(x, training=False), expected)


def test_training_goes_on(path):
    original, model = dense(144, 16), dense(144, 16)
    save_weights(original, path)
    load_weights(model, path)
    old, new = original.get_weights()[0], model.get_weights()[0]
    np.testing.assert_allclose(new.std(0, ddof=1), np.sqrt(old.var(0, ddof=1).mean()), rtol=1e-3)
    for side in (new > 0, new < 0):  # no weight is about to change sign
        magnitude = np.where(side, np.abs(new), np.nan)
        assert (np.nanmin(magnitude, 0) > 0.45 * np.nanmean(magnitude, 0)).all()
    model.compile("sgd", "mse")
    x, y = (np.random.default_rng(0).standard_normal((32, n)) for n in (144, 16))
    losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


# ---- latent weights --------------------------------------------------------------------


def reachable(n, p):
    """The exponents of sign patterns with p plus among n, from the extremes of mean|w_std|."""
    largest = 2 * np.sqrt(p * (n - p) * (n - 1) / n) / n  # equal magnitudes on each side
    infimum = np.sqrt(2 * (n - 1)) / n  # all in one weight of each side
    highest = round(float(np.log2(largest)))
    return [s for s in range(-12, highest + 1) if 2.0 ** (s + 0.5) > infimum or s == highest]


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_float16"])
@pytest.mark.parametrize("n", [3, 4, 5, 7, 8, 9, 16, 17, 27, 144, 257, 1025, 2304, 4608])
def test_latent_weights_for_every_reachable_exponent(n, dtype, path):
    rng = np.random.default_rng(n)
    columns, exponents = [], []
    for p in sorted({1, 2, n // 3, n // 2, n - 2, n - 1} & set(range(1, n))):
        for s in reachable(n, p):
            columns.append(rng.permutation(np.arange(n) < p))
            exponents.append(s)
    plus = np.stack(columns, axis=1)
    model = dense(n, len(exponents), tf.keras.mixed_precision.Policy(dtype))
    load_weights(model, craft_dense(path, plus, exponents))
    latent = model.get_weights()[0]
    expected = np.where(plus, 1, -1) * 2.0 ** np.array(exponents)
    assert np.array_equal(libra_pb(latent), expected)
    if dtype == "mixed_float16":
        assert np.array_equal(libra_pb(latent.astype(np.float16)), expected)


def test_whatever_weights_give_can_be_saved_and_loaded(path):
    """Random patterns and tails, and constant channels: the formulas above left nothing out."""
    rng = np.random.default_rng(0)
    seen = set()
    for n in (1, 2, 3, 4, 5, 6, 9, 20, 144, 1000):
        z = rng.standard_normal((n, 500)) + rng.uniform(-2, 2, 500)
        latent = np.sign(z) * np.abs(z) ** rng.uniform(0, 12, 500)
        latent = latent + rng.choice([0, 0.1, 1], 500)
        latent[:, :3] = 0, 0.3, -2
        model, other = dense(n, 500), dense(n, 500)
        model.set_weights([latent])
        save_weights(model, path)
        load_weights(other, path)
        quantized = libra_pb(model.get_weights()[0]).numpy()
        assert np.array_equal(libra_pb(other.get_weights()[0]), quantized)
        for p, scale in zip((quantized > 0).sum(0), np.abs(quantized[0])):
            if n == p:
                assert scale == 1
            elif n > 2:
                assert np.log2(scale) in reachable(n, p)
            seen.add((n, np.log2(scale)))
    assert {(4, 0), (4, -1), (144, -3), (1000, -4)} <= seen


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_diverged_weights_are_not_saved(bad, path):
    model = small()
    kernel, *norm = model.get_weights()
    for weights in (
        [np.where(np.arange(3) == 1, bad, kernel), *norm],
        [kernel, norm[0] + bad, *norm[1:]],
    ):
        model.set_weights(weights)
        with pytest.raises(ValueError, match="not finite"):
            save_weights(model, path)
    assert not path.exists()


# ---- fine-tuning -----------------------------------------------------------------------


def test_all_but_the_classifier(trained, path):
    save_weights(trained, path)
    other = RESNET20(num_classes=7)
    before = values(other)
    message = r"linear.kernel is float32 \(64, 10\) in the file, float32 \(64, 7\) in the model"
    with pytest.raises(ValueError, match=f"{message}.* skip_classifier=True"):
        load_weights(other, path)
    assert same(values(other), before)

    load_weights(other, path, skip_classifier=True)

    assert same(values(other)[-2:], before[-2:])
    assert not same(values(other)[:-2], before[:-2])
    body = [tf.keras.Model(m.input, m.get_layer("bn2").output) for m in (trained, other)]
    x = images(trained)
    assert np.array_equal(body[0](x), body[1](x))


def test_variables_of_one_number_come_back(path):
    layer = tf.keras.layers.Normalization(input_shape=(3,))
    model = tf.keras.Sequential([layer])
    layer.adapt(np.random.default_rng(0).normal(3, 2, (32, 3)))
    expected = values(model)
    save_weights(model, path)
    model.set_weights([np.zeros_like(w) for w in expected])
    load_weights(model, path)
    assert same(values(model), expected)


def test_a_network_inside_another(path):
    inner, other = small(), randomise(small(), seed=1)
    save_weights(inner, path)
    inputs = tf.keras.layers.Input((9,))
    wrapped = tf.keras.Model(inputs, other(inputs), name="wrapped")
    load_weights(wrapped, path)
    x = images(inner)
    assert np.array_equal(wrapped(x), inner(x))
    twice = tf.keras.Model(inputs, wrapped(inputs) + small()(inputs))
    with pytest.raises(ValueError, match="occurs twice in the model"):
        save_weights(twice, path)


# ---- wrong files -----------------------------------------------------------------------


def test_any_changed_missing_or_surplus_byte_is_noticed(path):
    model = small()
    save_weights(model, path)
    good = path.read_bytes()
    before = values(model)
    damaged = [good[:end] for end in range(len(good))] + [good + b"\0"]
    for mask in (1, 0x20, 0xFF):  # 0x20 changes the case of letters
        damaged += [good[:i] + bytes([good[i] ^ mask]) + good[i + 1 :] for i in range(len(good))]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            load_weights(model, path)
    assert same(values(model), before)


def test_files_of_other_kinds_are_rejected_and_not_executed(path, tmp_path):
    class Boom:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    contents = [
        b"<!DOCTYPE html>",
        pickle.dumps(Boom()),
        safetensors.numpy.save({"x": np.zeros(3)}),
        safetensors.numpy.save({"x": np.zeros(3)}, {"irnet_tf": '{"sha256":"x"}'}),
    ]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a 1-bit weights file"):
            read(path)
    assert not (tmp_path / "boom").exists()
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")


def test_crafted_tensors_are_rejected_and_the_model_left_as_it_was(path):
    model = small()
    save_weights(model, path)
    before = values(model)
    good = read(path).tensors
    unreachable, std = good["dense.kernel_1bit"].copy(), good["latent_std"]
    unreachable[2, 0] = 7
    for change, message in [
        ({"dense.kernel_1bit": unreachable}, r"channels \[2\] \(1 in all\)"),
        (
            {"dense.kernel_1bit": None, "dense.kernel": np.zeros((9, 3), np.float32)},
            "1-bit in one only: check weight_bits",
        ),
        ({"bn.batch_norm": good["bn.batch_norm"].astype(np.float64)}, "bn.batch_norm is float64"),
        ({"bn.batch_norm": good["bn.batch_norm"][1:]}, r"bn.batch_norm is float32 \(3, 3\)"),
        ({"extra.kernel": np.zeros(2, np.float32)}, "extra.kernel .* missing in the model"),
        ({"bn.batch_norm": None}, "bn.batch_norm is missing in the file"),
        ({"latent_std": None}, "latent_std is missing in the file"),
        ({"latent_std": std[None]}, r"latent_std is float32 \(1, 1\)"),
        ({"latent_std": std.astype(np.float64)}, "latent_std is float64"),
        ({"latent_std": -std}, "no latent weights"),
    ]:
        tensors = {k: v for k, v in {**good, **change}.items() if v is not None}
        with pytest.raises(ValueError, match=f"{path}.* {message}"):
            load_weights(model, craft(path, tensors))
        assert same(values(model), before)
    load_weights(model, craft(path, good))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format_version": 2}, "format version 2, .* reads version 1.*irnet_tf"),
        ({"facts": {}}, "unknown entries: facts"),
        ({"model_config": []}, "needs at least a builder"),
        ({"model_config": {"builder": "x", "recipe": {"t_max": 10**400}}}, "recipe holds a number"),
        ({"model_config": {"builder": "x", "results": {"loss": float("nan")}}}, "results holds"),
        (
            {"model_config": {"builder": "x", "data": json.loads("[" * 900 + "]" * 900)}},
            "data must",
        ),
    ],
)
def test_crafted_headers_are_rejected(path, entries, message, monkeypatch):
    header = {"sha256": file._UNSEALED, "format_version": 1, **entries}
    text = json.dumps(header, separators=(",", ":"))
    monkeypatch.setattr(file.json, "dumps", lambda *_, **__: text)
    craft(path, {"x": np.zeros(1)})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=message):
        read(path)


HUGE = [
    {"kernel_quantizer": {"class_name": "LibraPB", "config": {"channel_axes": 10**10}}},
    {"input_quantizer": {"class_name": "DoReFa", "config": {"k_bit": 10**12}}},
    {"kernel_quantizer": {"class_name": "Dense", "config": {"units": 3}}},
    {"num_classes": 10**9},
    {"num_classes": 60_000, "input_shape": [60_000, 60_000, 3]},
    {"input_shape": [2048, 2048, 3], "num_classes": 60_000},
]


@pytest.mark.parametrize("arguments", HUGE, ids=str)
def test_a_network_larger_than_its_tensors_is_rejected_quickly(path, arguments):
    config = ModelConfig("vgg_small", arguments)
    path.write_bytes(file.to_bytes({"fc.bias": np.zeros(10, np.float32)}, config))
    start = time.process_time()
    with pytest.raises(ValueError, match="network.safetensors"):
        build_model(read(path))
    assert time.process_time() - start < 2


# ---- writing ---------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_what_was_there(path, monkeypatch, step):
    def fail(*_):
        raise OSError("disk full")

    save_weights(small(), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(small(4), path)
    assert os.listdir(path.parent) == [path.name] and path.read_bytes() == before


def test_threads_that_write_one_path_leave_a_whole_file(trained, path):
    threads = [threading.Thread(target=save_weights, args=(trained, path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load_weights(trained, path)
    assert os.listdir(path.parent) == [path.name]
