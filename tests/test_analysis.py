"""Measures of binary weights and activations, against counts by hand."""

import csv
import dataclasses
import json
import math
import subprocess
import sys
import types

from irnet_tf import analysis
from irnet_tf.analysis import __main__ as command
from irnet_tf.model_config import ModelConfig, set_model_config
from irnet_tf.preprocessing import Preprocessing
import larq as lq
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from tests.conftest import ROOT


def network(kernel, quantizer="libra_pb", input_quantizer="ede_sign", side=8):
    height, width, channels, filters = kernel.shape
    images = tf.keras.layers.Input((side, side, channels))
    x = lq.layers.QuantConv2D(
        filters,
        (height, width),
        kernel_quantizer=quantizer,
        input_quantizer=input_quantizer,
        kernel_constraint="weight_clip" if quantizer == "ste_sign" else None,
        use_bias=False,
        name="conv",
    )(images)
    model = tf.keras.Model(images, tf.keras.layers.GlobalAveragePooling2D()(x))
    model.get_layer("conv").set_weights([kernel])
    return model


def count(bits):
    """Entropy of a bit from how often it is one of two values, by the definition."""
    values = list(np.ravel(bits))
    shares = [values.count(value) / len(values) for value in set(values)]
    return -sum(p * math.log2(p) for p in shares)


def test_entropy_of_known_shares():
    np.testing.assert_allclose(
        analysis.entropy([0, 0.5, 1, 0.25]), [0, 1, 0, 2 - 0.75 * math.log2(3)], atol=1e-15
    )


SKEWED = {
    "normal": lambda rng, shape: rng.normal(0, 0.1, shape),
    "shifted": lambda rng, shape: rng.normal(0.05, 0.1, shape),
    "each channel shifted": lambda r, shape: r.normal(r.normal(0, 0.1, shape[-1]), 0.1, shape),
    "lognormal": lambda rng, shape: rng.lognormal(0, 1, shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
}


@pytest.mark.parametrize("kind", SKEWED)
@pytest.mark.parametrize("shape", [(3, 3, 16, 64), (1, 1, 512, 64)])
def test_entropy_of_libra_pb_is_not_below_the_plain_signs(kind, shape, rng):
    kernel = SKEWED[kind](rng, shape).astype(np.float32)
    [facts] = analysis.analyse(network(kernel))
    binary = tf.keras.utils.get_custom_objects()["libra_pb"]()(kernel).numpy()
    libra_pb = np.mean([count(binary[..., i]) for i in range(64)])
    plain = np.mean([count(kernel[..., i] >= 0) for i in range(64)])
    assert libra_pb >= plain
    assert facts["weight_entropy"] == pytest.approx(libra_pb, abs=1e-12)
    assert facts["plain_entropy"] == pytest.approx(plain, abs=1e-12)


def test_scales_errors_and_cosines(rng):
    kernel = rng.normal(0.02, 0.1, (3, 3, 8, 4))
    kernel[..., 3] = np.where(rng.random((3, 3, 8)) < 0.02, 10, 0.01) * rng.choice(
        [-1, 1], (3, 3, 8)
    )
    kernel = kernel.astype(np.float32)
    [facts] = analysis.analyse(network(kernel))
    w = kernel.reshape(72, 4).astype(float)
    standard = (w - w.mean(0)) / w.std(0, ddof=1)
    s = np.array([round(math.log2(m)) for m in np.abs(standard).mean(0)])
    assert len(set(s)) > 1
    assert facts["exponents"] == {v: list(s).count(v) / 4 for v in sorted(set(s))}
    q = np.sign(standard) * 2.0**s
    assert facts["error"] == pytest.approx(np.mean((standard - q) ** 2), rel=1e-5)
    assert facts["plain_error"] == pytest.approx(
        np.mean((w / w.std(0, ddof=1) - np.sign(w)) ** 2), rel=1e-5
    )
    cosines = [
        w[:, i] @ q[:, i] / np.linalg.norm(w[:, i]) / np.linalg.norm(q[:, i]) for i in range(4)
    ]
    assert facts["cosine"] == pytest.approx(np.mean(cosines), rel=1e-5)
    assert facts["weight_balance"] == pytest.approx(np.mean(standard > 0))


def test_a_plain_sign_is_its_own_plain_sign(rng):
    [facts] = analysis.analyse(network(rng.normal(0, 0.3, (3, 3, 8, 4)), "ste_sign"))
    assert (
        facts["weight_entropy"] == facts["plain_entropy"] and facts["error"] == facts["plain_error"]
    )
    assert (facts["quantizer"], facts["exponents"]) == ("SteSign", {0: 1.0})


def test_activations_are_counted_over_all_images(rng):
    images = rng.normal(0, 1, (5, 8, 8, 3)).astype(np.float32)
    images[..., 0] = np.abs(images[..., 0])  # a channel without information
    images[..., 1] += 1
    model = network(rng.normal(size=(3, 3, 3, 4)))
    [facts] = analysis.analyse(model, [images[:2], images[2:]])
    assert facts["activation_entropy"] == pytest.approx(
        np.mean([count(images[..., i] >= 0) for i in range(3)]), abs=1e-6
    )
    assert facts["activation_balance"] == pytest.approx(np.mean(images >= 0))
    assert facts["silent_channels"] == pytest.approx(1 / 3)


def test_what_cannot_be_known_is_left_out(rng):
    model = network(rng.normal(size=(3, 3, 3, 4)))
    [facts] = analysis.analyse(model, latent=False)
    assert facts["weight_entropy"] > 0.5
    assert facts.keys().isdisjoint({"cosine", "error", "plain_entropy", "activation_entropy"})
    assert "cosine" not in analysis.as_markdown([facts])
    with pytest.raises(ValueError, match="no binary layer"):
        analysis.analyse(network(rng.normal(size=(3, 3, 3, 4)), None, None))
    with pytest.raises(ValueError, match="there are no images"):
        analysis.analyse(model, [])


@pytest.fixture
def networks(monkeypatch, rng):
    """Any name is that of a network for 32x32 images."""
    config = ModelConfig("x", {}, preprocessing=Preprocessing(32, (0.5,) * 3, (0.5,) * 3))
    found = types.SimpleNamespace(recipe=None, kernel=rng.normal(size=(3, 3, 3, 4)))

    def load(name):
        model = network(found.kernel, side=32)
        return set_model_config(model, dataclasses.replace(config, recipe=found.recipe))

    found.load = load
    monkeypatch.setattr(command, "networks_package", lambda: found)
    return found


def test_the_command_writes_table_and_figure(tmp_path, networks, capsys):
    command.main(["some/name", "--data=digits", "--images=70", f"--out={tmp_path}"])
    printed = capsys.readouterr().out
    assert (tmp_path / "layers.md").read_text() in printed and "no latent weights" in printed
    assert "- bit/act.: entropy of the binary activations, at most 1" in printed
    [row] = csv.DictReader((tmp_path / "layers.csv").read_text().splitlines())
    assert row["name"] == "conv" and float(row["activation_entropy"]) > 0.5
    text = (tmp_path / "layers.svg").read_text()
    for words in ("entropy of weights, bit", "conv", "70 test images of digits", "layer, from"):
        assert words in text
    assert (tmp_path / "layers.png").stat().st_size > 10_000


def test_a_run_folder_knows_its_data_and_has_details(tmp_path, networks, capsys):
    for i, name in enumerate("aaaabbbb"):
        (tmp_path / f"images/{name}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / f"images/{name}/{i}.png")
    run = tmp_path / "run"
    run.mkdir()
    flags = {"data_dir": str(tmp_path / "images"), "validation_split": 0.5}
    (run / "config.json").write_text(json.dumps({"flags": flags}))
    (run / "details.csv").write_text("epoch,layer,flip_ratio,gradient_norm\n1,conv,0.5,\n")
    (run / "final.safetensors").touch()
    networks.recipe = {"data": "folder"}
    command.main([str(run), f"--out={tmp_path}"])
    assert "bit/act." in capsys.readouterr().out
    assert "activations on 4 test images of" in (tmp_path / "layers.svg").read_text()
    assert "share of weights that changed sign" in (tmp_path / "details.svg").read_text()


def test_a_run_folder_has_its_latent_weights(tmp_path, networks):
    kernel = networks.kernel
    tf.train.Checkpoint(model=networks.load("")).save(tmp_path / "checkpoints/ckpt")
    (tmp_path / "best.safetensors").touch()
    networks.kernel = 0 * kernel
    model, latent = command.load(str(tmp_path))
    np.testing.assert_array_equal(model.get_weights()[0], kernel.astype(np.float32))
    assert latent
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(ValueError, match="no epoch has ended"):
        command.load(str(tmp_path))


def test_names_are_found_without_knowing_the_zoo():
    code = (
        "import sys, irnet_tf.analysis.__main__ as command, irnet_tf.ablation, irnet_tf.compare\n"
        "assert 'zoo' not in sys.modules\n"
        "try: command.load('digits/nonsense')\n"
        "except ValueError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "digits/resnet20_bireal_1w1a" in found.stdout, found.stderr[-2000:]
