"""`python -m zoo`: output and errors of its commands, and the facts it prints."""

import dataclasses
import json
import os
from pathlib import Path
import re
import subprocess
import sys

from absl import flags
from irnet_tf import data, evaluation
from irnet_tf.training import flags as flags_of
from irnet_tf.weights import save_weights
import larq as lq
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import zoo
from zoo.__main__ import _COMMANDS, main
from zoo.facts import command, facts, measure
from zoo.loading import find_model_config

from tests.conftest import ROOT, result_of, run_train

NAME = "digits/resnet20_bireal_1w1a"
WEIGHTS = Path(zoo.__path__[0]) / "weights"
TRAINED = [name for name in zoo.list_models() if zoo.info(name).weights]


@pytest.fixture(scope="module")
def digit(tmp_path_factory):
    """The path of a test image, its label, and the folder."""
    image, label = data.load("digits").test.read(tf.constant(7, tf.int64))
    path = tmp_path_factory.mktemp("images") / "digit.png"
    Image.fromarray(image.numpy()).save(path)
    return path, str(label.numpy())


def test_the_table(capsys):
    """ResNet-18 and 34 have 11.69 and 21.80 million trainable parameters, and the moving
    statistics of batch norm on top."""
    main([])
    whole = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in whole.splitlines() if line}
    assert lines.keys() >= set(zoo.list_models())
    assert lines["imagenet/resnet18_bireal_1w1a"][1:6] == ["1/1", "11.70M", "4.24", "MB", "58.1"]
    assert lines["imagenet/resnet34_normal_1w32a"][1:3] == ["1/32", "21.82M"]
    for name in TRAINED:
        unit = {"KB": 1e3, "MB": 1e6}[lines[name][4]]
        assert float(lines[name][3]) == pytest.approx(zoo.info(name).weights.size / unit, rel=0.1)
        assert f"{100 * find_model_config(name).results['accuracy']:.2f}" in lines[name]
    main(["list", "digits"])
    some = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in some[4:]] == zoo.list_models("digits/*")


OTHERS = [name for name in zoo.list_models() if name != NAME]


@pytest.mark.parametrize("name", [NAME, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)])
def test_the_sizes_in_the_table_are_measured(name):
    """larq counts the same operations."""
    sizes = zoo.info(name).sizes
    assert measure(name) == sizes, "run python -m zoo sizes"
    profile = lq.models.ModelProfile(zoo.load(name, None))
    counts = {bits: profile.op_count("mac", bits) for bits in profile.unique_op_precisions}
    assert sizes["one_bit"] == counts.get(1, 0)
    assert sizes["one_bit"] + sizes["float"] == sum(counts.values())


@pytest.mark.parametrize("name", TRAINED)
def test_the_command_repeats_the_run(name):
    """train.py's flags parse it to the recipe, network and seed in the run's config.json."""
    entry = zoo.info(name)
    values = flags.FlagValues()
    flags_of.define(values)
    _, *arguments = command(entry).split()
    assert values(arguments) == ["train.py"]
    identity = entry.results["config"]["identity"]
    recipe = flags_of.make_recipe(entry.recipes, values)
    repeated = json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert repeated == {k: v for k, v in identity["recipe"].items() if k in repeated}
    assert (values.model, values.seed) == (name, identity["seed"])
    assert (values.data_dir is None) == (recipe.data == "digits")


def test_facts_of_a_trained_and_of_an_untrained_network():
    found = facts(zoo.info("cifar10/resnet20_bireal_1w1a"))
    for title, text in {
        "paper": "top-1 86.50 %",
        "ours": "top-1 84.85 %, top-5 99.30 % after the last epoch, 85.20 % in the best",
        "parameters": "271,354 (269,850 trainable)",
        "operations": "40.1 million 1-bit, 0.4 million float",
        "trained on": "CIFAR-10: 50,000 training and 10,000 test images",
        "recipe of the run": "data cifar10, epochs 300, batch_size 128",
        "repeat": "--recipe=fast --seed=0 --epochs=300 --data_dir=D",
    }.items():
        assert text in found[title], (title, found[title])
    found = facts(zoo.info("imagenet/resnet18_bireal_1w1a"))
    assert found["paper"] == "top-1 58.10 %, top-5 80.00 %" and "ours" not in found
    assert found["train"].endswith("--data_dir=D")
    found = facts(zoo.info("larq_zoo/BiRealNet"))
    assert found["larq-zoo's weights"].startswith("top-1 57.47 %") and "paper" not in found


def test_info(capsys, tmp_path):
    main(["info", NAME])
    out = capsys.readouterr().out
    sha256 = zoo.info(NAME).weights.sha256
    for text in ("depth 20, structure bireal", "classes          0, 1, 2", "98.89 %", sha256):
        assert text in out
    save_weights(zoo.load(NAME, None, structure="normal"), tmp_path / "mine.safetensors")
    main(["info", str(tmp_path / "mine.safetensors")])
    assert "structure normal" in capsys.readouterr().out


def test_predicting_with_a_file_alone_in_a_fresh_process(digit, tmp_path):
    path, label = digit
    weights = WEIGHTS / zoo.info(NAME).weights.file
    (tmp_path / "mine.safetensors").write_bytes(weights.read_bytes())
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "predict", "mine.safetensors", str(path), "--top=2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "TensorFlow's start-up lines"
    lines = done.stdout.splitlines()
    assert lines[0] == str(path) and len(lines) == 3
    assert re.fullmatch(rf" +\d+\.\d\d % +{label}", lines[1])


def test_predicting_a_folder_continues_after_a_bad_file(digit, capsys):
    path, label = digit
    (path.parent / "bad.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as error:
        main(["predict", NAME, str(path.parent), str(path), "--top=1"])
    assert error.value.code == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == lines[2] == str(path)
    assert lines[1] == lines[3] and lines[1].endswith(f"  {label}")
    assert err.startswith("not read: ") and "bad.png" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "cifr10/*"], "no network matches 'cifr10/.*did you mean cifar10/"),
        (["info", "digits/resnet20"], "did you mean digits/resnet20_bireal"),
        (["info", ""], "unknown model ''"),
        (["info", "nothing.safetensors"], "No such file"),
        (["info", "/dev/zero"], "not a regular file|unknown model"),
        (["predict", NAME, str(ROOT / "irnet_tf")], "has no image files"),
        (["predict", "imagenet/resnet18_bireal_1w1a", "x.png"], "no pretrained weights yet"),
        (["verify", "imagenet/resnet18_bireal_1w1a"], "has no weights to verify"),
        (["verify", "digits/resnet"], "did you mean"),
        (["verify", "cifar10/resnet20_bireal_1w1a", "--data_dir=irnet_tf"], "irnet_tf"),
    ],
)
def test_errors_are_one_line(arguments, message):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["lst"],
        ["--nonsense"],
        ["predict", NAME, "x.png", "--top=0"],
        ["predict", NAME, "x.png", "--tp=3"],
        ["predict", NAME],
        ["info", NAME, NAME],
        ["export", NAME],
        ["export", NAME, "--output=x.tflite", "--std=x"],
    ],
)
def test_bad_flags(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.slow
def test_verify(capsys, monkeypatch):
    line = f"{NAME}: 98.89% of 360 images of digits (scikit-learn), as stated\n"
    main(["verify", NAME])
    assert capsys.readouterr().out == line
    load = zoo.load

    def worse(name):
        model = load(name)
        model.get_layer("linear").bias.assign_sub(10 * np.eye(10)[3])
        return model

    monkeypatch.setattr(zoo, "load", worse)
    with pytest.raises(SystemExit) as error:
        main(["verify", NAME])
    assert error.value.code == 1 and "stated is 98.89%" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAINED if name != NAME])
def test_verify_on_cifar10(name, capsys):
    folder = Path(os.environ.get("IRNET_TF_DATA", ROOT.parent / "shared/original"))
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"CIFAR-10 is not in {folder}")
    main(["verify", name, f"--data_dir={folder}"])
    accuracy = zoo.info(name).results["result"]["shipped"]["accuracy"]
    assert capsys.readouterr().out == (
        f"{name}: {accuracy:.2%} of 10000 images of CIFAR-10, as stated\n"
    )


def test_a_closed_pipe_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "zoo"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(60) == 0 and b"Broken pipe" not in error and b"zoo:" not in error


@pytest.mark.parametrize("command", [[], *([name] for name in _COMMANDS)])
def test_help_needs_no_tensorflow(command):
    code = "import sys; sys.modules['tensorflow'] = None; from zoo.__main__ import main; main()"
    arguments = [sys.executable, "-c", code, *command, "--help"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m zoo"), done.stderr


SCRIPT = """
import json
import zoo
from irnet_tf import data, evaluation
from irnet_tf.model_config import get_model_config

model = zoo.load("network.safetensors")
result = evaluation.evaluate(model, data.load("folder", "images"))
predictions = zoo.predict("network.safetensors", "images/test", top=1)
print(json.dumps([
    result["images"],
    result["accuracy"],
    get_model_config(model).results["accuracy"],
    [best for [(best, _)] in predictions],
]))
"""


@pytest.mark.slow
def test_a_weights_file_is_enough(tmp_path):
    """A run on photos of other shapes than the network's, mostly red or mostly blue."""
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    for split, count in (("train", 24), ("test", 9)):
        for channel, name in ((0, "red fox"), (2, "blue whale")):
            (images / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (40 + i, 60, 3))
                pixels[..., channel] += 110
                Image.fromarray(pixels.astype(np.uint8)).save(images / split / name / f"{i}.png")
    run = tmp_path / "run"
    run_train(
        "--model=cifar10/resnet20_bireal_1w1a", "--recipe=fast", f"--data_dir={images}",
        f"--output_dir={run}", "--epochs=4", "--batch_size=8", "--learning_rate=0.02",
    )  # fmt: skip
    stated = result_of(run)["best"]["accuracy"]
    assert stated > 0.7
    (run / "best.safetensors").rename(tmp_path / "network.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *numbers, names = json.loads(done.stdout.splitlines()[-1])
    assert numbers == [18, pytest.approx(stated), pytest.approx(stated)]
    labels = ["blue whale"] * 9 + ["red fox"] * 9  # in the order of the paths
    assert np.mean(np.equal(names, labels)) == pytest.approx(stated)


def test_digits_as_a_folder_of_files(tmp_path):
    """The folder is normalised as the network requires: 356 of 360 predictions are correct."""
    source = data.load("digits")
    for split, part, count in (("train", source.train, 100), ("test", source.test, 360)):
        images, labels = part.read(tf.range(count))
        for i, (image, label) in enumerate(zip(images.numpy(), labels.numpy())):
            (tmp_path / split / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / split / str(label) / f"{i}.png")
    model = zoo.load("digits/resnet20_bireal_1w1a")
    result = evaluation.evaluate(model, data.load("digits", str(tmp_path)))
    assert (result["images"], round(result["accuracy"] * 360)) == (360, 356)
