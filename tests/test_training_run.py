"""The run: what it leaves behind, and what it survives."""

import csv
import dataclasses
import json
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

from irnet_tf import data, evaluation, training
from irnet_tf._compat import layers_from_zero
from irnet_tf.model_config import BUILDERS, ModelConfig, get_model_config, set_model_config
from irnet_tf.models import cifar_resnet
from irnet_tf.quantizers import LibraPB
from irnet_tf.training.run_dir import FIELDS, RunFolder
from irnet_tf.weights import load_weights, save_weights
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
import zoo

from tests.conftest import ROOT, assert_same_run, result_of, wait_for
from tests.tiny import PREPROCESSING, RECIPE, start_tiny, tiny_data, tiny_network, tiny_train

OLD = ROOT / "tests/reference/run_of_first_format"


# ---- the run folder ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, tiny_train(folder, flags={"epochs": 2})


def test_run_folder_holds_what_it_should(finished):
    folder, result = finished
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "config.json", "metrics.csv", "curves.png", "checkpoints", "tensorboard",
        "final.safetensors", "best.safetensors", "result.json",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["identity"]["recipe"]["learning_rate"] == 0.05
    assert config["identity"]["data"]["train_images"] == 24
    assert config["versions"]["tensorflow"] == tf.__version__
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["epoch"]) for r in rows] == [1, 2] and tuple(rows[0]) == FIELDS
    assert [float(r["ede_t"]) for r in rows] == pytest.approx([0.1, 1.0])
    assert [float(r["ede_k"]) for r in rows] == pytest.approx([10.0, 1.0])
    assert result == result_of(folder)
    assert result["final"]["accuracy"] == float(rows[1]["test_accuracy"])
    assert result["best"]["accuracy"] == max(float(r["test_accuracy"]) for r in rows)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    logged = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(
            str(next((folder / "tensorboard").iterdir()))
        )
        for value in event.summary.value
    }
    assert logged == set(FIELDS)


def test_final_weights_evaluate_to_the_accuracy_in_the_result(finished):
    from irnet_tf.weights import load_weights

    folder, result = finished
    model = tiny_network()
    for which in ("final", "best"):
        load_weights(model, folder / f"{which}.safetensors")
        again = evaluation.evaluate(model, tiny_data())
        assert again["accuracy"] == pytest.approx(result[which]["accuracy"], abs=1e-9)


def test_a_finished_run_is_not_trained_again(finished):
    folder, result = finished
    before = (folder / "final.safetensors").read_bytes()
    assert tiny_train(folder)["final"] == result["final"]
    assert (folder / "final.safetensors").read_bytes() == before


def test_a_folder_with_another_run_is_refused_unless_overwritten(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(ValueError, match="holds another run.*seed: 0 there, 5 asked for"):
        tiny_train(folder, seed=5)
    with pytest.raises(ValueError, match="recipe.epochs: 2 there, 1 asked for"):
        tiny_train(folder, RECIPE.replace(epochs=1))
    with pytest.raises(ValueError, match="holds this run already"):
        tiny_train(folder, resume=False)
    other = tmp_path / "run"
    shutil.copytree(folder, other)
    (other / "mine.txt").write_text("kept")
    (other / "checkpoints" / "mine.txt").write_text("kept")
    tiny_train(other, RECIPE.replace(epochs=1), seed=1, overwrite=True)
    assert (other / "mine.txt").read_text() == "kept"
    assert (other / "checkpoints" / "mine.txt").read_text() == "kept"
    assert json.loads((other / "config.json").read_text())["identity"]["seed"] == 1
    assert len(list((other / "checkpoints").glob("*.index"))) == 1


def test_other_weights_to_begin_with_make_another_run(tmp_path):
    """In a folder that was finished, too: the old result is not theirs."""
    import dataclasses

    from irnet_tf.model_config import get_model_config, set_model_config

    def begun_with(digest):
        def build():
            model = tiny_network()
            return set_model_config(
                model, dataclasses.replace(get_model_config(model), initialized_from=digest)
            )

        return build

    recipe = RECIPE.replace(epochs=1)
    tiny_train(tmp_path, recipe)
    config = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match="initialized_from: None there, 'abc' asked for"):
        tiny_train(tmp_path, recipe, begun_with("abc"))
    assert (tmp_path / "config.json").read_bytes() == config


def test_a_run_of_an_earlier_version_with_a_quantizer_given_as_an_object(tmp_path):
    """Its config.json has Keras's name and type of the quantizer, which differ each time."""

    def make():
        return cifar_resnet(20, kernel_quantizer=LibraPB(), input_shape=(8, 8, 3), num_classes=3)

    recipe = RECIPE.replace(epochs=1)
    tiny_train(tmp_path, recipe, make, preprocessing=PREPROCESSING)
    config = json.loads((tmp_path / "config.json").read_text())
    quantizer = config["identity"]["arguments"]["kernel_quantizer"]["config"]
    assert not {"name", "dtype"} & set(quantizer)
    quantizer |= {"name": "libra_pb_19", "dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = tiny_train(tmp_path, recipe, make, preprocessing=PREPROCESSING)
    assert again["final"]["epoch"] == 1


def test_what_is_not_a_run_is_neither_taken_nor_deleted(tmp_path):
    for name in ("config.json", "metrics.csv", "best.safetensors"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("a stranger's")
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="choose another output_dir"):
                tiny_train(folder, overwrite=overwrite)
        assert [p.name for p in folder.iterdir()] == [name]
        assert (folder / name).read_text() == "a stranger's"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"identity": null}', "[" * 5000, "\0"])
def test_a_config_that_is_none_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json' is not the config.json of a run"):
        RunFolder(tmp_path).prepare({"identity": {"a": 1}}, resume=True, overwrite=True)


def test_a_path_through_a_file_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="file' is not a folder"):
            tiny_train(path)
    with pytest.raises(ValueError, match="larger than the 24 training images"):
        tiny_train(tmp_path / "run", RECIPE.replace(batch_size=25))
    assert not (tmp_path / "run").exists()


def test_ede_off_keeps_t(tmp_path):
    tiny_train(tmp_path, ede=False)
    assert [r["ede_t"] for r in RunFolder(tmp_path).read_rows()] == [0.1, 0.1]


def test_callbacks_are_called_as_in_fit(tmp_path):
    seen = []

    class Note(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(("begin", epoch))

        def on_epoch_end(self, epoch, logs=None):
            seen.append(("end", epoch, sorted(logs)))

    tiny_train(tmp_path, RECIPE.replace(epochs=1), callbacks=[Note()])
    names = {"loss", "accuracy", "val_loss", "val_accuracy", "val_top5", "ede_t", "ede_k"}
    assert seen[0] == ("begin", 0) and seen[1][:2] == ("end", 0) and names <= set(seen[1][2])


def test_run_outputs_of_fit(tmp_path):
    model = training.compile_model(tiny_network(), RECIPE, 3)
    x, y = tiny_data().test.read(tf.range(24))
    outputs = training.RunLogger(tmp_path, batch_size=8, title="fit")
    model.fit(
        PREPROCESSING.normalise(x), y, batch_size=8, epochs=2, verbose=0,
        validation_data=(PREPROCESSING.normalise(x), y), callbacks=[outputs],
    )  # fmt: skip
    rows = RunFolder(tmp_path).read_rows()
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["learning_rate"] > rows[1]["learning_rate"] > 0
    assert rows[1]["images_per_second"] > 0 and rows[1]["test_loss"] > 0
    assert (tmp_path / "final.safetensors").exists() and (tmp_path / "curves.png").exists()


def test_run_outputs_of_a_fit_that_stops_early_or_has_no_test(tmp_path):
    model = training.compile_model(tiny_network(), RECIPE, 3)
    x, y = tiny_data().test.read(tf.range(24))
    x = PREPROCESSING.normalise(x)
    with pytest.warns(UserWarning, match="lack val_accuracy, .* give fit validation_data"):
        model.fit(x, y, verbose=0, callbacks=[training.RunLogger(tmp_path / "untested")])
    stop = tf.keras.callbacks.EarlyStopping("val_loss", min_delta=1e9)
    model.fit(
        x, y, epochs=9, verbose=0, validation_data=(x, y),
        callbacks=[stop, training.RunLogger(tmp_path)],
    )  # fmt: skip
    assert len(RunFolder(tmp_path).read_rows()) == 2
    again = tiny_network()
    load_weights(again, tmp_path / "final.safetensors")
    np.testing.assert_array_equal(again(x), model(x))


# ---- what goes wrong ---------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    class BlowUp(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.get_layer("fc").bias.assign([np.nan] * 3)

    with pytest.raises(ValueError, match="loss is nan in epoch 2.*the last checkpoint is"):
        tiny_train(tmp_path, callbacks=[BlowUp()])
    assert len(RunFolder(tmp_path).read_rows()) == 1
    assert tf.train.latest_checkpoint(tmp_path / "checkpoints").endswith("ckpt-1")
    assert tiny_train(tmp_path)["final"]["epoch"] == 2


def test_a_loss_that_is_no_number_is_not_kept_within_an_epoch(tmp_path, monkeypatch):
    """The loss is looked at now and then; a checkpoint may be due before that."""
    from irnet_tf.training import loop

    class BlowUp(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.get_layer("fc").bias.assign([np.nan] * 3)

    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0)
    with pytest.raises(ValueError, match="loss is nan in epoch 2.*the last checkpoint is"):
        tiny_train(tmp_path, callbacks=[BlowUp()])
    assert tiny_train(tmp_path)["final"]["epoch"] == 2


def test_another_number_of_outputs_than_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tiny has 3 classes, .* is \[5\].*num_classes=3"):
        tiny_train(tmp_path / "run", model=lambda: tiny_network(classes=5))
    assert not (tmp_path / "run").exists()


def test_a_model_made_for_something_else_is_refused(tmp_path):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with pytest.raises(ValueError, match="not made in the scope of the strategy, Mirrored"):
        tiny_train(tmp_path, model=tiny_network(), strategy=strategy)
    with pytest.raises(ValueError, match="computes in float32, the recipe says bfloat16"):
        tiny_train(tmp_path, RECIPE.replace(mixed_precision="mixed_bfloat16"), tiny_network())
    assert not list(tmp_path.iterdir())
    assert tiny_train(tmp_path, RECIPE.replace(epochs=1), tiny_network())["final"]["epoch"] == 1


def test_images_are_not_normalised_twice(tmp_path):
    model = zoo.load("digits/resnet20_bireal_1w1a", include_preprocessing=True)
    digits = data.load("digits")
    for use in (
        lambda: evaluation.evaluate(model, digits),
        lambda: evaluation.report(model, digits, tmp_path / "report"),
        lambda: training.train(model, digits, RECIPE, tmp_path / "run"),
    ):
        with pytest.raises(ValueError, match=r"images would get it twice: .*model.layers\[-1\]"):
            use()
    assert not list(tmp_path.iterdir())


def test_weights_that_could_not_be_kept_are_told_before_training(tmp_path):
    class Own(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.network = tiny_network()
            self.scale = self.add_weight("scale", (3,), initializer="ones")

        def call(self, x):
            return self.scale * self.network(x)

    model = Own()
    model(np.zeros((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="scale:0 of the model .* would not be kept"):
        save_weights(model, tmp_path / "x.safetensors")

    class Block(tf.keras.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.parts = [tf.keras.layers.Dense(3), tf.keras.layers.Dense(3)]

        def call(self, x):
            return self.parts[1](self.parts[0](x))

    def with_block():
        inner = tiny_network()
        return set_model_config(
            tf.keras.Model(inner.input, Block()(inner.output)), get_model_config(inner)
        )

    with pytest.raises(ValueError, match="'block.kernel' is twice .* build it as a Model"):
        tiny_train(tmp_path / "run", model=with_block)
    assert not (tmp_path / "run").exists()


def test_a_network_of_the_zoo_is_no_random_beginning(tmp_path):
    """Also where it is not train.py that loads it."""
    name = "digits/resnet20_bireal_1w1a"
    digits = data.load("digits")
    few = dataclasses.replace(digits.train, num_examples=8)
    digits = dataclasses.replace(digits, train=few, test=few)
    recipe = RECIPE.replace(epochs=1)
    training.train(lambda: zoo.load(name), digits, recipe, tmp_path)
    sha256 = zoo.info(name).weights.sha256
    assert (
        json.loads((tmp_path / "config.json").read_text())["identity"]["initialized_from"] == sha256
    )
    assert get_model_config(zoo.load(tmp_path / "final.safetensors")).initialized_from == sha256
    with pytest.raises(ValueError, match="initialized_from"):
        training.train(lambda: zoo.load(name, None), digits, recipe, tmp_path)


def test_layers_without_names_are_found_again(tmp_path, monkeypatch):
    """Keras numbers them over the whole process, and a weights file names them."""

    def own(num_classes=3):
        inputs = tf.keras.Input((8, 8, 3))
        x = tf.keras.layers.Conv2D(4, 3)(inputs)
        x = tf.keras.layers.GlobalAveragePooling2D()(x)
        model = tf.keras.Model(inputs, tf.keras.layers.Dense(num_classes)(x))
        return set_model_config(model, ModelConfig("unnamed", {}, preprocessing=PREPROCESSING))

    monkeypatch.setitem(BUILDERS, "unnamed", own)
    own()
    tiny_train(tmp_path, RECIPE.replace(epochs=1), own)
    assert tiny_train(tmp_path, RECIPE.replace(epochs=1), own)["final"]["epoch"] == 1
    first, second = (zoo.load(tmp_path / "final.safetensors") for _ in range(2))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with layers_from_zero():
        body = own()  # made outside, so that its names are taken

    def on_body():
        return set_model_config(
            tf.keras.Model(body.input, tf.keras.layers.Dense(3)(body.output)), said
        )

    said = get_model_config(body)
    tiny_train(tmp_path / "on_body", RECIPE.replace(epochs=1), on_body)


def test_an_unreadable_image_is_reported(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name in "abc":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8)
                Image.fromarray(noise).save(tmp_path / split / name / f"{i}.jpg")
    for broken in (tmp_path / "train/b/2.jpg", tmp_path / "test/a/1.jpg"):
        broken.write_bytes(broken.read_bytes()[:900])  # the header is whole, the picture is not
    images = data.load("digits", str(tmp_path))
    recipe = RECIPE.replace(batch_size=4)  # the 12 images, in 3 steps
    with pytest.raises(ValueError, match="train/b/2.jpg"):
        training.train(tiny_network, images, recipe, tmp_path / "run")


_LONG = ("epochs=3", "images=240")  # 30 steps an epoch


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start_tiny(folder, *_LONG)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return folder


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_in_an_epoch_ends_as_if_it_had_not_been(tmp_path, undisturbed, number):
    process = start_tiny(tmp_path, *_LONG)
    wait_for(process, "epoch 2/3: step 3/30")
    process.send_signal(number)
    said = process.communicate()[0]
    assert process.returncode != 0 and not (tmp_path / "result.json").exists()
    if number != signal.SIGKILL:
        assert f"stopped by {signal.Signals(number).name} in epoch 2; saved" in said
    again = start_tiny(tmp_path, *_LONG)
    said = again.communicate()[0]
    assert again.returncode == 0 and "resumed after epoch 1 of 3" in said, said
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_bfloat16_run_killed_in_an_epoch_ends_as_if_it_had_not_been(tmp_path):
    """Its compiled parts are deterministic, too."""
    changes = ("epochs=2", "images=240", 'mixed_precision="mixed_bfloat16"')
    killed = start_tiny(tmp_path / "killed", *changes)
    wait_for(killed, "epoch 2/2: step 3/30")
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "killed/result.json").exists()
    for folder in ("killed", "undisturbed"):
        process = start_tiny(tmp_path / folder, *changes)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        assert ("resumed after epoch 1 of 2" in said) == (folder == "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_signal_during_an_evaluation_saves_and_stops_it(tmp_path):
    """Not only once it is over; what was trained is not trained again."""
    process = start_tiny(tmp_path / "run", "terminated=true")
    said = process.communicate()[0]
    assert process.returncode == 1 and "stopped by SIGTERM in epoch 1; saved" in said, said
    reader = tf.train.load_checkpoint(str(tmp_path / "run" / "checkpoints"))
    assert reader.get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE") == 3
    assert not (tmp_path / "run" / "metrics.csv").exists()
    tiny_train(tmp_path / "whole")
    tiny_train(tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# ---- what is found there -----------------------------------------------------------------------


def test_a_run_folder_of_the_first_format_is_resumed(tmp_path):
    """Begun by the first version, stopped in its second epoch; rows counted from 0."""
    shutil.copytree(OLD, tmp_path / "old")
    result = tiny_train(tmp_path / "old")
    tiny_train(tmp_path / "new")
    rows = RunFolder(tmp_path / "old").read_rows()
    assert [row["epoch"] for row in rows] == [1, 2] and result["final"]["epoch"] == 2
    finals = [tmp_path / name / "final.safetensors" for name in ("old", "new")]
    old, new = map(safetensors.numpy.load_file, finals)
    for name, value in new.items():
        np.testing.assert_allclose(old[name], value, atol=1e-6, err_msg=name)
    with pytest.raises(ValueError, match="recipe.momentum: 0.9 there, 0.8 asked for"):
        tiny_train(tmp_path / "old", RECIPE.replace(momentum=0.8))


def test_metrics_that_were_lost_are_made_again(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    expected = (folder / "metrics.csv").read_bytes()
    best = (folder / "best.safetensors").read_bytes()
    for spoil in (lambda path: path.unlink(), lambda path: path.write_text("nonsense")):
        spoil(folder / "metrics.csv")
        (folder / "curves.png").unlink()
        (folder / "result.json").unlink()
        (folder / "final.safetensors").unlink()
        assert tiny_train(folder) == finished[1]
        assert (folder / "metrics.csv").read_bytes() == expected
        assert (folder / "best.safetensors").read_bytes() == best
        assert (folder / "curves.png").exists() and (folder / "final.safetensors").exists()


def test_metrics_of_the_first_format_that_were_lost_are_asked_for(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    text = (tmp_path / "old" / "metrics.csv").read_text()
    (tmp_path / "old" / "metrics.csv").unlink()
    with pytest.raises(ValueError, match="has 0 of the 1 epochs that were trained"):
        tiny_train(tmp_path / "old")
    (tmp_path / "old" / "metrics.csv").write_text(text[:-40])
    with pytest.raises(ValueError, match="damaged in line 2"):
        tiny_train(tmp_path / "old")


def test_checkpoints_half_written_or_damaged_are_not_taken(tmp_path):
    """The one before is, and the run ends as it would have."""
    tiny_train(tmp_path)
    weights = safetensors.numpy.load_file(tmp_path / "final.safetensors")
    checkpoints = tmp_path / "checkpoints"
    last, before = checkpoints / "ckpt-2.data-00000-of-00001", checkpoints / "ckpt-1.index"
    assert last.exists() and before.exists()
    (checkpoints / "ckpt-3.data-00000-of-00001").write_bytes(last.read_bytes()[:5000])
    (checkpoints / "ckpt-4.index").write_bytes(b"")
    (checkpoints / "ckpt-abc.index").write_bytes(b"x")
    (checkpoints / "checkpoint").write_bytes(b"")
    last.write_bytes(last.read_bytes()[:5000])
    (tmp_path / "final.safetensors").unlink()
    tiny_train(tmp_path)
    again = safetensors.numpy.load_file(tmp_path / "final.safetensors")
    for name, value in weights.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    left = {path.name.split(".")[0] for path in checkpoints.iterdir()}
    assert left == {"checkpoint", "ckpt-1", "ckpt-2"}

    for path in checkpoints.glob("ckpt-*"):
        path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="none of the checkpoints in .* can be read; overwrite"):
        tiny_train(tmp_path)


def test_a_run_killed_while_its_first_checkpoint_was_written_begins_anew(tmp_path):
    """As the first version left it: an empty index under its final name."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(OLD / "config.json", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "ckpt-1.index").write_bytes(b"")
    (tmp_path / "run" / "checkpoints" / "ckpt-1.data-00000-of-00001").write_bytes(b"abc")
    tiny_train(tmp_path / "run")
    tiny_train(tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_checkpoints_of_another_network_are_refused(tmp_path):
    tiny_train(tmp_path)
    network = tiny_network()
    wider = tf.keras.Model(network.inputs, tf.keras.layers.Dense(3)(network.output))
    from irnet_tf.model_config import get_model_config, set_model_config

    with pytest.raises(ValueError, match="of another network or of another training"):
        tiny_train(tmp_path, model=set_model_config(wider, get_model_config(network)))


def test_checkpoints_that_are_a_file_are_refused(tmp_path):
    shutil.copy(OLD / "config.json", tmp_path)
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OSError, match="cannot save in"):
        tiny_train(tmp_path)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_which_is_resumed_when_there_is_room(tmp_path):
    """A real one: a file system in memory, which another file fills in the second epoch."""
    command = f"{sys.executable} -u -m tests.tiny {tmp_path}"
    script = f"""
        mount -t tmpfs -o size=1m none {tmp_path} || exit 77
        {command} fill=true && exit 1
        ls {tmp_path}/checkpoints
        rm {tmp_path}/filler
        {command}
    """
    process = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode == 77 or "unshare failed" in process.stderr:
        pytest.skip("mounting a small file system is not allowed here")
    assert process.returncode == 0, process.stderr[-3000:]
    assert "No space left on device" in process.stderr
    assert f"the last checkpoint is {tmp_path}/checkpoints/ckpt-1" in process.stderr
    assert "Make room, then give the same command again" in process.stderr
    listed = process.stdout.split("resumed")[0]
    assert "ckpt-1.index" in listed and "ckpt-2" not in listed and "unfinished" not in listed
    assert "resumed after epoch 1 of 2" in process.stdout and "epoch 2/2" in process.stdout


# ---- one run a folder --------------------------------------------------------------------------


def test_a_folder_in_use_is_refused_with_host_and_process(tmp_path):
    process = start_tiny(tmp_path, "epochs=2", "pause=60")
    wait_for(process, "folder ")
    try:
        for overwrite in (False, True):
            with pytest.raises(ValueError, match=f"in use by process {process.pid} on"):
                tiny_train(tmp_path, seed=1, overwrite=overwrite)
    finally:
        process.kill()
        process.communicate()
    assert tiny_train(tmp_path)["final"]["epoch"] == 2, "a dead process' lock is no obstacle"
    assert not (tmp_path / "lock").exists()


def test_a_holder_on_another_machine_is_known_by_its_touching_the_lock(tmp_path):
    """Where locks do not travel from machine to machine, as on some shared file systems."""
    from irnet_tf.training.lock import Lock

    lock = tmp_path / "lock"
    lock.write_text('{"host": "elsewhere", "process": 7, "boot": "another"}')
    Lock(tmp_path, watch=1.0).release()  # nobody touches it
    lock.write_text('{"host": "elsewhere", "process": 7, "boot": "another"}')
    toucher = subprocess.Popen(["sh", "-c", f"while sleep 0.2; do touch {lock}; done"])
    try:
        with pytest.raises(ValueError, match="in use by process 7 on elsewhere"):
            Lock(tmp_path, watch=5.0)
    finally:
        toucher.kill()
        toucher.wait()
    held = Lock(tmp_path, beat=0.1, watch=1.0)
    before = lock.stat().st_mtime_ns
    time.sleep(0.5)
    assert lock.stat().st_mtime_ns > before
    held.release()
    assert not Path(lock).exists()


def test_details_of_layers_are_logged_if_asked_for(tmp_path):
    tiny_train(tmp_path, log_details=True)
    with open(tmp_path / "details.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["layer"]) for row in rows] == [("1", "conv2"), ("2", "conv2")]
    assert all(0 <= float(row["flip_ratio"]) < 0.5 for row in rows)
    assert all(float(row["gradient_norm"]) > 0 for row in rows)


@pytest.mark.parametrize("epochs", [1, 2, 7, 60])
def test_curves_count_epochs_in_whole_numbers_and_show_every_point(epochs):
    from irnet_tf.training.curves import figure_of

    rows = [
        {
            **dict.fromkeys(FIELDS, 0.5),
            "epoch": epoch,
            "learning_rate": 0.1 * (1 - epoch / epochs),  # ends at 0, as a cosine in float32
            "train_loss": 1.7 - 0.5 * epoch / epochs,
        }
        for epoch in range(1, epochs + 1)
    ]
    figure = figure_of(rows, "title")
    figure.canvas.draw()
    for axes in figure.axes:
        ticks = [t for t in axes.get_xticks() if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
        assert ticks and all(t == int(t) and 1 <= t <= epochs for t in ticks)
        assert axes.get_xlabel() == "epoch" and axes.get_ylabel()
    low, high = figure.axes[2].get_ylim()
    assert low < 0 and high > 0.5
    low, high = figure.axes[1].get_ylim()
    ticks = [t for t in figure.axes[1].get_yticks() if low <= t <= high]
    assert len(ticks) >= 3, "a loss that changes by less than a decade has ticks, too"
