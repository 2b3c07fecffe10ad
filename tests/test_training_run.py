"""Runs: the run folder, resumption, and errors."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

from irnet_tf import data, evaluation, training
from irnet_tf.layers import Preprocess
from irnet_tf.model_config import BUILDERS, ModelConfig, get_model_config, set_model_config
from irnet_tf.models import cifar_resnet
from irnet_tf.quantizers import LibraPB
from irnet_tf.training.config import config_of
from irnet_tf.training.curves import figure_of
from irnet_tf.training.run_dir import COLUMNS, RunDir, best_row, read_metrics
from irnet_tf.weights import load_weights
import numpy as np
from PIL import Image
import pytest
import safetensors.numpy
import tensorflow as tf
import zoo

from tests.conftest import ROOT, assert_same_run, result_of, wait_for
from tests.tiny import PREPROCESSING, RECIPE, start_tiny, tiny_data, tiny_network, tiny_train

ONE_EPOCH = RECIPE.replace(epochs=1)

# ---- the run folder ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, tiny_train(folder, flags={"epochs": 2}, log_details=True)


@pytest.fixture
def finished_copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def test_run_folder(finished):
    folder, result = finished
    assert {p.name for p in folder.iterdir()} - {".lock"} == {
        "config.json", "metrics.csv", "curves.png", "checkpoints", "tensorboard",
        "final.safetensors", "best.safetensors", "result.json", "details.csv",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["identity"]["recipe"]["learning_rate"] == 0.05
    assert config["identity"]["data"]["train_images"] == 24
    assert config["versions"]["tensorflow"] == tf.__version__
    rows = read_metrics(folder)
    assert [r["epoch"] for r in rows] == [1, 2] and tuple(rows[0]) == COLUMNS
    assert [r["ede_t"] for r in rows] == pytest.approx([0.1, 1.0])
    assert [r["ede_k"] for r in rows] == pytest.approx([10.0, 1.0])
    rate = RECIPE.learning_rate_schedule(3)
    assert [r["learning_rate"] for r in rows] == pytest.approx([float(rate(s)) for s in (2, 5)])
    assert result == result_of(folder)
    assert result["final"]["accuracy"] == rows[1]["test_accuracy"]
    assert result["best"]["accuracy"] == max(r["test_accuracy"] for r in rows)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    logged = {
        value.tag
        for path in (folder / "tensorboard").iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert set(COLUMNS) < logged
    with open(folder / "details.csv") as file:
        details = list(csv.DictReader(file))
    assert [(row["epoch"], row["layer"]) for row in details] == [("1", "conv2"), ("2", "conv2")]
    assert all(float(row["gradient_norm"]) > 0 for row in details)


def test_weights_files_evaluate_to_the_accuracy_in_result_json(finished):
    folder, result = finished
    model = tiny_network()
    for which in ("final", "best"):
        load_weights(model, folder / f"{which}.safetensors")
        again = evaluation.evaluate(model, tiny_data())
        assert again["accuracy"] == pytest.approx(result[which]["accuracy"], abs=1e-6)


def test_best_is_the_first_epoch_with_the_highest_test_accuracy():
    rows = [{"epoch": i, "test_accuracy": a} for i, a in enumerate((0.5, 0.8, 0.8, 0.7))]
    assert best_row(rows)["epoch"] == 1


def test_a_damaged_metrics_file_names_the_line(finished_copy):
    path = finished_copy / "metrics.csv"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="damaged in line 3"):
        read_metrics(path)


@pytest.mark.parametrize("spoil", [shutil.rmtree, lambda path: (shutil.rmtree(path), path.mkdir())])
def test_a_finished_run_without_checkpoints_is_not_trained_again(finished, finished_copy, spoil):
    spoil(finished_copy / "checkpoints")
    assert tiny_train(finished_copy) == finished[1]
    final = (finished[0] / "final.safetensors").read_bytes()
    assert (finished_copy / "final.safetensors").read_bytes() == final
    assert not list((finished_copy / "checkpoints").glob("*"))


def test_a_folder_with_another_run_is_rejected_unless_overwritten(finished, finished_copy):
    folder, _ = finished
    with pytest.raises(ValueError, match="holds another run.*seed: 0, now 5"):
        tiny_train(folder, seed=5)
    with pytest.raises(ValueError, match="recipe.epochs: 2, now 1"):
        tiny_train(folder, ONE_EPOCH)
    with pytest.raises(ValueError, match="holds this run already"):
        tiny_train(folder, resume=False)
    (finished_copy / "mine.txt").write_text("kept")
    tiny_train(finished_copy, ONE_EPOCH, seed=1, overwrite=True)
    assert (finished_copy / "mine.txt").read_text() == "kept"
    assert json.loads((finished_copy / "config.json").read_text())["identity"]["seed"] == 1
    assert len(list((finished_copy / "checkpoints").glob("*.index"))) == 1
    assert not (finished_copy / "details.csv").exists()


@pytest.mark.parametrize(
    "name", ["lock", "failure.txt", "curves.png", "a.tmp", "config.json", "checkpoints"]
)
def test_files_of_the_user_are_neither_changed_nor_deleted(tmp_path, name):
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="not of a run .*choose|choose another output_dir"):
            tiny_train(tmp_path, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", '{"identity": null}', "[" * 5000])
def test_a_config_that_is_not_of_a_run_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json' is not the config.json of a run"):
        RunDir(tmp_path).read_config()


def test_one_process_per_folder(tmp_path):
    process = start_tiny(tmp_path, "epochs=2", "pause=60")
    wait_for(process, "images  ")
    try:
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="in use by another process"):
                tiny_train(tmp_path, seed=1, overwrite=overwrite)
    finally:
        process.kill()
        process.communicate()
    assert tiny_train(tmp_path)["final"]["epoch"] == 2, "the lock of a dead process is no obstacle"


# ---- the model and the data --------------------------------------------------------------------


def test_a_run_with_a_quantizer_object_is_the_same_run(tmp_path):
    """Keras gives each quantizer object another name."""

    def identity():
        model = cifar_resnet(20, kernel_quantizer=LibraPB(), input_shape=(8, 8, 3), num_classes=3)
        return config_of(model, tiny_data(), RECIPE, PREPROCESSING, None, {})["identity"]

    with RunDir(tmp_path).opened({"identity": identity()}):
        RunDir(tmp_path).check(identity())


def test_classes_that_do_not_match_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"tiny has 3 classes, .* is \[5\].*num_classes=3"):
        tiny_train(tmp_path, model=lambda: tiny_network(classes=5))
    assert not list(tmp_path.iterdir())


def test_images_are_not_normalised_twice(tmp_path):
    images = tf.keras.Input((8, 8, 3))
    outputs = tiny_network()(Preprocess(**PREPROCESSING.to_dict())(images))
    model = tf.keras.Model(images, outputs)
    for use in (
        lambda: evaluation.evaluate(model, tiny_data()),
        lambda: evaluation.report(model, tiny_data(), tmp_path / "report"),
        lambda: tiny_train(tmp_path / "run", model=lambda: model),
    ):
        with pytest.raises(ValueError, match=r"model.layers\[-1\]"):
            use()
    assert not list(tmp_path.iterdir())


def test_weights_that_a_file_cannot_hold_are_rejected_before_training(tmp_path):
    class Block(tf.keras.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.parts = [tf.keras.layers.Dense(3), tf.keras.layers.Dense(3)]

        def call(self, x):
            return self.parts[1](self.parts[0](x))

    def with_block():
        inner = tiny_network()
        model = tf.keras.Model(inner.input, Block()(inner.output))
        return set_model_config(model, get_model_config(inner))

    with pytest.raises(ValueError, match="'block.kernel' occurs twice"):
        tiny_train(tmp_path, model=with_block)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_layers_without_names_are_resumed_and_loaded(tmp_path, monkeypatch):
    """Keras numbers them over the whole process, and a weights file names them."""

    def own(num_classes=3):
        inputs = tf.keras.Input((8, 8, 3))
        x = tf.keras.layers.Conv2D(4, 3)(inputs)
        x = tf.keras.layers.GlobalAveragePooling2D()(x)
        model = tf.keras.Model(inputs, tf.keras.layers.Dense(num_classes)(x))
        return set_model_config(model, ModelConfig("unnamed", {}, preprocessing=PREPROCESSING))

    monkeypatch.setitem(BUILDERS, "unnamed", own)
    own()
    run = tmp_path / "run"
    tiny_train(run, ONE_EPOCH, own)
    (run / "result.json").unlink()
    assert tiny_train(run, ONE_EPOCH, own)["final"]["epoch"] == 1
    file = run / "final.safetensors"
    first, second = (zoo.load(file) for _ in range(2))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    tiny_train(tmp_path / "tuned", ONE_EPOCH, lambda: zoo.load(file))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    identity = json.loads((tmp_path / "tuned/config.json").read_text())["identity"]
    assert identity["initialized_from"] == sha256
    tuned = zoo.load(tmp_path / "tuned/final.safetensors")
    assert get_model_config(tuned).initialized_from == sha256


def test_ede_off_keeps_t(tmp_path):
    tiny_train(tmp_path, ede=False)
    assert [r["ede_t"] for r in read_metrics(tmp_path)] == [0.1, 0.1]


def test_an_unreadable_image_is_reported(tmp_path):
    for split in ("train", "test"):
        for name in "abc":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8)
                Image.fromarray(noise).save(tmp_path / split / name / f"{i}.jpg")
    broken = tmp_path / "train/b/2.jpg"
    broken.write_bytes(broken.read_bytes()[:900])  # the header is complete, the picture is not
    images = data.load("digits", str(tmp_path))
    with pytest.raises(ValueError, match="train/b/2.jpg"):
        training.train(tiny_network, images, RECIPE.replace(batch_size=4), tmp_path / "run")


# ---- callbacks ---------------------------------------------------------------------------------


def test_callbacks_of_the_user_see_the_logs_and_can_stop_the_run(tmp_path):
    seen = []

    class Note(tf.keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, set(logs)))
            self.model.stop_training = True

    result = tiny_train(tmp_path, callbacks=[Note()])
    [(epoch, names)] = seen
    assert epoch == 0 and result["final"]["epoch"] == 1 == len(read_metrics(tmp_path))
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "val_top5", "ede_t", "ede_k"} <= names


def test_run_logger_of_fit(tmp_path):
    model = training.compile_model(tiny_network(), RECIPE, 3)
    x, y = tiny_data().test.read(tf.range(24))
    x = PREPROCESSING.normalise(x)
    logger = training.RunLogger(tmp_path / "run", batch_size=8)
    stop = tf.keras.callbacks.EarlyStopping("val_loss", min_delta=1e9)
    model.fit(
        x, y, batch_size=8, epochs=9, verbose=0, validation_data=(x, y), callbacks=[stop, logger]
    )
    rows = read_metrics(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["learning_rate"] > rows[1]["learning_rate"] > 0
    assert rows[1]["images_per_second"] > 0 and rows[1]["test_loss"] > 0
    again = tiny_network()
    load_weights(again, tmp_path / "run/final.safetensors")
    np.testing.assert_array_equal(again(x), model(x))
    with pytest.warns(UserWarning, match="val_accuracy missing .* give fit validation_data"):
        model.fit(x, y, verbose=0, callbacks=[training.RunLogger(tmp_path / "untested")])


class BlowUp(tf.keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.get_layer("fc").bias.assign([np.nan] * 3)


def test_a_nan_loss_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(
        ValueError, match="loss is nan in epoch 2; the last checkpoint is that of .* 1"
    ):
        tiny_train(tmp_path, callbacks=[BlowUp()])
    assert len(read_metrics(tmp_path)) == 1
    assert tf.train.latest_checkpoint(tmp_path / "checkpoints").endswith("ckpt-1")
    assert tiny_train(tmp_path)["final"]["epoch"] == 2


def test_signal_handlers_are_restored(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    class Terminate(tf.keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(training.Stopped, match="SIGTERM; the same command starts again"):
        tiny_train(tmp_path, callbacks=[Terminate()])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not (tmp_path / "metrics.csv").exists()


# ---- resumption --------------------------------------------------------------------------------


_LONG = ("epochs=3", "images=240")  # 30 steps an epoch


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start_tiny(folder, *_LONG)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return folder


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_in_an_epoch_ends_with_the_same_weights(tmp_path, undisturbed, number):
    process = start_tiny(tmp_path, *_LONG)
    seen = wait_for(process, "epoch 2/3: step 3/30")
    assert "compiling the training step ..." in seen
    process.send_signal(number)
    output = process.communicate()[0]
    assert process.returncode != 0 and not (tmp_path / "result.json").exists()
    if number != signal.SIGKILL:
        name = signal.Signals(number).name
        cure = "the same command resumes after epoch 1"
        assert f"{name}: stopping after this step; {cure}" in output
        assert f"stopped by {name}; {cure}" in output and "Traceback" not in output
    again = start_tiny(tmp_path, *_LONG)
    output = again.communicate()[0]
    assert again.returncode == 0 and "resuming after epoch 1 of 3" in output, output
    assert_same_run(tmp_path, undisturbed)


def test_files_that_were_lost_are_written_again(finished, finished_copy):
    metrics = (finished_copy / "metrics.csv").read_bytes()
    for name in ("metrics.csv", "curves.png", "result.json", "final.safetensors"):
        (finished_copy / name).unlink()
    assert tiny_train(finished_copy) == finished[1]
    assert (finished_copy / "metrics.csv").read_bytes() == metrics
    final = (finished[0] / "final.safetensors").read_bytes()
    assert (finished_copy / "final.safetensors").read_bytes() == final
    assert (finished_copy / "curves.png").exists()


def test_damaged_checkpoints_are_skipped(finished_copy, capsys):
    weights = safetensors.numpy.load_file(finished_copy / "final.safetensors")
    checkpoints = finished_copy / "checkpoints"
    last = checkpoints / "ckpt-2.data-00000-of-00001"
    last.write_bytes(last.read_bytes()[:5000])
    (checkpoints / "ckpt-4.index").write_bytes(b"")
    (checkpoints / "checkpoint").write_bytes(b"")
    (finished_copy / "result.json").unlink()
    tiny_train(finished_copy)
    captured = capsys.readouterr()
    assert "skipped" in captured.err and "resuming after epoch 1 of 2" in captured.out
    again = safetensors.numpy.load_file(finished_copy / "final.safetensors")
    for name, value in weights.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    for path in checkpoints.glob("ckpt-*"):
        path.write_bytes(b"nonsense")
    (finished_copy / "result.json").unlink()
    with pytest.raises(ValueError, match="no checkpoint in .* can be read; .* overwrite"):
        tiny_train(finished_copy)


def test_checkpoints_of_another_network_are_rejected(finished_copy):
    (finished_copy / "result.json").unlink()
    network = tiny_network()
    wider = tf.keras.Model(network.inputs, tf.keras.layers.Dense(3)(network.output))
    set_model_config(wider, get_model_config(network))
    with pytest.raises(ValueError, match="is of another network"):
        tiny_train(finished_copy, model=lambda: wider)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_which_resumes_when_there_is_room(tmp_path):
    """A file system in memory, which another file fills in the second epoch."""
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
    assert "checkpoint is that of epoch 1: free space, then use the same" in process.stderr
    listed = process.stdout.split("resuming")[0]
    assert "ckpt-1.index" in listed and "ckpt-2.index" not in listed
    assert "resuming after epoch 1 of 2" in process.stdout and "epoch 2/2" in process.stdout


@pytest.mark.parametrize("epochs", [1, 7, 60])
def test_curves_count_epochs_in_whole_numbers(epochs):
    row = dict.fromkeys(COLUMNS, 0.5)
    rows = [{**row, "epoch": i, "train_loss": 1.7 - 0.5 * i / epochs} for i in range(1, epochs + 1)]
    figure = figure_of([*rows[:-1], {**rows[-1], "learning_rate": 0.0}], "title")
    figure.canvas.draw()
    for axes in figure.axes:
        ticks = [t for t in axes.get_xticks() if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
        assert ticks and all(t == int(t) and 1 <= t <= epochs for t in ticks)
        assert axes.get_xlabel() == "epoch" and axes.get_ylabel()
    low, high = figure.axes[1].get_ylim()
    ticks = [t for t in figure.axes[1].get_yticks() if low <= t <= high]
    assert len(ticks) >= 3, "a loss that changes by less than a decade has ticks"
