"""The run: what it computes, what it leaves behind, and what it survives."""

import csv
import json
import signal
import subprocess
import sys
import time

from irnet_tf import data, training
from irnet_tf.data.sources import Split
from irnet_tf.models import cifar_resnet
from irnet_tf.preprocessing import Preprocessing
from irnet_tf.training import Recipe
from irnet_tf.training.outputs import FIELDS, RunFolder
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from tests.conftest import ROOT, assert_same_run, result_of, run_train, start_train, wait_for

PREPROCESSING = Preprocessing(8, (0.5,) * 3, (0.25,) * 3)
RECIPE = Recipe("digits", epochs=2, batch_size=8, learning_rate=0.05, augmentation="shift")


def tiny_data(n=24, size=8, bad=None):
    """Images whose mean tells the class; `bad` is an index whose image is not a number."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    images = (80 * labels[:, None, None, None] + rng.integers(0, 60, (n, size, size, 3))).astype(
        np.uint8
    )

    def read(index):
        return tf.gather(tf.constant(images), index), tf.gather(
            tf.constant(labels.astype(np.int32)), index
        )

    split = Split(n, read, size)
    return data.Data("tiny", split, split, ("a", "b", "c"))


def tiny_network():
    return cifar_resnet(20, input_shape=(8, 8, 3), num_classes=3)


def tiny_train(folder, recipe=RECIPE, **changes):
    arguments = {"network": "tiny", "preprocessing": PREPROCESSING, **changes}
    return training.train(tiny_network, tiny_data(), recipe, str(folder), **arguments)


# ---- recipes -----------------------------------------------------------------------------------


def test_cosine_rate():
    rate = RECIPE.changed(epochs=4, learning_rate=0.1).learning_rate_schedule(25)
    for step in (0, 1, 50, 99):
        expected = 0.05 * (1 + np.cos(np.pi * step / 100))
        assert float(rate(step)) == pytest.approx(expected, abs=1e-7)


def test_imagenet_rate_is_the_published_one():
    """0.2 to 0.8 in 2,500 of 62,500 steps, a tenth at 18,750, 37,500 and 56,250."""
    import zoo

    recipe = zoo.info("imagenet/resnet18_bireal_1w1a").recipe
    rate = recipe.learning_rate_schedule(625)
    published = {
        0: 0.2,
        1250: 0.5,
        2500: 0.8,
        18_749: 0.8,
        18_750: 0.08,
        37_500: 8e-3,
        56_250: 8e-4,
    }
    for step, expected in published.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-4), step
    half = recipe.changed(batch_size=1024)
    assert (half.learning_rate, half.warmup_from) == pytest.approx((0.4, 0.1))
    assert recipe.changed(batch_size=1024, learning_rate=0.3).learning_rate == 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0"),
        ({"momentum": 1.0}, "momentum"),
        ({"schedule": "linear"}, "schedule must be one of"),
        ({"t_min": 0.0}, "t_min"),
        ({"augmentation": "nope"}, "augmentation must be one of .*got 'nope'"),
        ({"decay_at": (0.3, 7.0)}, "decay_at must hold shares .*7.0"),
    ],
)
def test_bad_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RECIPE.changed(**changes)


# ---- the step ----------------------------------------------------------------------------------


def test_step_is_sgd_with_momentum_and_l2_decay_of_every_parameter(float64):
    """Two steps by hand, in NumPy, with gradients from a tape."""
    from irnet_tf.training.step import Metrics, make_optimizer, make_train_step

    recipe = RECIPE.changed(weight_decay=0.01, schedule="step")
    model = cifar_resnet(20, input_shape=(8, 8, 3), num_classes=3)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((8, 8, 8, 3)), np.arange(8) % 3
    variables = model.trainable_variables
    start = model.get_weights()

    def gradients():
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(
                tf.keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            )
        return [g.numpy() for g in tape.gradient(loss, variables)]

    weights = [v.numpy() for v in variables]
    momenta = [np.zeros_like(w) for w in weights]
    for _ in range(2):
        decayed = [g + 0.01 * w for g, w in zip(gradients(), weights)]
        momenta = [0.9 * m + d for m, d in zip(momenta, decayed)]
        weights = [w - 0.05 * m for w, m in zip(weights, momenta)]
        for variable, value in zip(variables, weights):
            variable.assign(value)

    model.set_weights(start)
    optimizer = make_optimizer(recipe, steps_per_epoch=10)
    step = make_train_step(model, optimizer, Metrics(), recipe, tf.distribute.get_strategy())
    iterator = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    step(iterator)
    step(iterator)
    for variable, expected in zip(variables, weights):
        np.testing.assert_allclose(variable, expected, rtol=1e-6, atol=1e-9)


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
    assert [int(r["epoch"]) for r in rows] == [0, 1] and tuple(rows[0]) == FIELDS
    assert [float(r["ede_t"]) for r in rows] == pytest.approx([0.1, 1.0])
    assert [float(r["ede_k"]) for r in rows] == pytest.approx([10.0, 1.0])
    assert result == result_of(folder)
    assert result["final"]["accuracy"] == float(rows[1]["test_accuracy"])
    assert result["best"]["accuracy"] == max(float(r["test_accuracy"]) for r in rows)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_final_weights_evaluate_to_the_accuracy_in_the_result(finished):
    from irnet_tf.weights import load_weights

    folder, result = finished
    model = tiny_network()
    for which in ("final", "best"):
        facts = load_weights(model, folder / f"{which}.safetensors")
        again = training.evaluate(model, tiny_data(), preprocessing=PREPROCESSING)
        assert again["accuracy"] == pytest.approx(result[which]["accuracy"], abs=1e-9)
        assert facts["accuracy"] == result[which]["accuracy"]
        assert facts["network"] == "tiny" and facts["data"]["name"] == "tiny"
    x, y = tiny_data().test.read(tf.range(24))
    logits = model((tf.cast(x, tf.float32) / 255 - 0.5) / 0.25, training=False)
    by_hand = np.mean(np.argmax(logits, -1) == y.numpy())
    assert by_hand == pytest.approx(result["best"]["accuracy"])


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
        tiny_train(folder, RECIPE.changed(epochs=1))
    with pytest.raises(ValueError, match="holds this run already"):
        tiny_train(folder, resume=False)
    other = tmp_path / "run"
    other.mkdir()
    (other / "mine.txt").write_text("kept")
    (other / "config.json").write_text('{"identity": {"seed": 1}}')
    tiny_train(other, RECIPE.changed(epochs=1), overwrite=True)
    assert (other / "mine.txt").read_text() == "kept"
    assert json.loads((other / "config.json").read_text())["identity"]["seed"] == 0


def test_ede_off_keeps_t(tmp_path):
    tiny_train(tmp_path, ede=False)
    assert [r["ede_t"] for r in RunFolder(tmp_path).read_rows(2)] == [0.1, 0.1]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    """Images turn into NaN from the second epoch on."""
    calm = tiny_data()

    def build():
        model = tiny_network()
        call = model.call

        def poisoned(inputs, training=None, mask=None):
            return call(inputs, training=training, mask=mask) + blow_up

        model.call = poisoned
        return model

    blow_up = tf.Variable(0.0, trainable=False)

    def plot_then_blow_up(self, rows, title):
        blow_up.assign(float("nan"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "plot", plot_then_blow_up)
        with pytest.raises(ValueError, match="loss is nan in epoch 2.*last good checkpoint is"):
            training.train(
                build, calm, RECIPE, str(tmp_path), network="tiny", preprocessing=PREPROCESSING
            )
    assert len(RunFolder(tmp_path).read_rows(9)) == 1
    assert tf.train.latest_checkpoint(tmp_path / "checkpoints").endswith("ckpt-1")
    blow_up.assign(0.0)
    assert tiny_train(tmp_path)["final"]["epoch"] == 1


def test_an_unreadable_image_is_named_when_it_is_met(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8)
                Image.fromarray(noise).save(tmp_path / split / name / f"{i}.jpg")
    broken = tmp_path / "train" / "b" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:900])  # the header is whole, the picture is not
    images = data.load("digits", str(tmp_path))
    network = lambda: cifar_resnet(20, input_shape=(8, 8, 3), num_classes=2)  # noqa: E731
    with pytest.raises(ValueError, match="cannot read .*train/b/2.jpg"):
        training.train(
            network,
            images,
            RECIPE,
            str(tmp_path / "run"),
            network="tiny",
            preprocessing=PREPROCESSING,
        )


# ---- killed and started again ------------------------------------------------------------------

_KILLED = ["--epochs=2", "--batch_size=239", "--seed=3"]  # 6 steps an epoch


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run_train(*_KILLED, f"--output_dir={folder}")
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_killed_in_an_epoch_ends_as_if_it_had_not_been(tmp_path, undisturbed, number):
    process = start_train(*_KILLED, f"--output_dir={tmp_path}")
    wait_for(process, "epoch 2/2:")  # the bar of the second epoch: its first steps run
    time.sleep(1.0)
    process.send_signal(number)
    assert process.wait(60) != 0
    assert not (tmp_path / "result.json").exists(), "the run was over before it was killed"
    again = run_train(*_KILLED, f"--output_dir={tmp_path}")
    assert "going on after epoch 1 of 2" in again.stdout
    assert_same_run(tmp_path, undisturbed)


def test_checkpoints_half_written_or_damaged_are_not_taken(tmp_path):
    """The one before is, and the run ends as it would have."""
    tiny_train(tmp_path)
    weights = safetensors.numpy.load_file(tmp_path / "final.safetensors")
    checkpoints = tmp_path / "checkpoints"
    last, before = checkpoints / "ckpt-2.data-00000-of-00001", checkpoints / "ckpt-1.index"
    assert last.exists() and before.exists()
    (checkpoints / "ckpt-3.data-00000-of-00001").write_bytes(last.read_bytes()[:5000])
    last.write_bytes(last.read_bytes()[:20000])
    (tmp_path / "final.safetensors").unlink()
    tiny_train(tmp_path)
    again = safetensors.numpy.load_file(tmp_path / "final.safetensors")
    for name, value in weights.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)

    for path in checkpoints.glob("ckpt-*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the checkpoints in .* can be read; --overwrite"):
        tiny_train(tmp_path)


_TINY = """
import sys
from tests.test_training import tiny_train
try:
    tiny_train(sys.argv[1])
except OSError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(tmp_path):
    """A real one: a file system in memory, with room for one checkpoint."""
    command = f"{sys.executable} -c '{_TINY}' {tmp_path}"
    script = f"""
        mount -t tmpfs -o size=3m none {tmp_path} || exit 77
        {command} && exit 1
        ls {tmp_path}/checkpoints
        mount -o remount,size=99m {tmp_path}
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
    assert f"the last good checkpoint is {tmp_path}/checkpoints/ckpt-1" in process.stderr
    assert "Make room, then give the same command again" in process.stderr
    listed = process.stdout.split("going on")[0]
    assert "ckpt-1.index" in listed and "ckpt-2" not in listed
    assert "going on after epoch 1 of 2" in process.stdout and "epoch 2/2" in process.stdout


# ---- the command line --------------------------------------------------------------------------


def test_evaluate_mode_gives_the_accuracy_of_the_run(tmp_path):
    flags = ["--epochs=1", "--batch_size=128", f"--output_dir={tmp_path}"]
    trained = run_train(*flags)
    assert "epoch 1/1" in trained.stderr and "images/s" in trained.stdout
    out = run_train("--mode=evaluate", f"--output_dir={tmp_path}").stdout
    assert f"accuracy {result_of(tmp_path)['best']['accuracy']:.2%}" in out
    assert "all 360 test images of digits (scikit-learn)" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=digits/resnet20_birael_1w1a"], "did you mean digits/resnet20_bireal_1w1a"),
        (["--epochs=0"], "epochs must be a whole number of at least 1, got 0"),
        (["--batch_size=2000"], "batch_size 2000 is larger than the 1437 training images"),
        (["--data_dir=no/such/folder"], "data_dir 'no/such/folder' is not a folder"),
        (["--kernel_quantizer=libra_bp"], "unknown quantizer 'libra_bp'; did you mean libra_pb"),
        (["--mode=evaluate", "--weights=no.safetensors"], "no.safetensors"),
        (["--seed=-1"], "seed must be between"),
        (["epochs=3"], "did not understand epochs=3"),
    ],
)
def test_bad_flags_get_one_clear_line(tmp_path, flags, message):
    process = run_train(*flags, f"--output_dir={tmp_path / 'run'}", check=False)
    assert process.returncode != 0
    last = process.stderr.strip().splitlines()[-1]
    assert message in last and "Traceback" not in process.stderr
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_float32_weights(tmp_path, policy):
    models = []

    def build():
        models.append(tiny_network())
        return models[-1]

    recipe = RECIPE.changed(epochs=1)
    training.train(
        build,
        tiny_data(),
        recipe,
        str(tmp_path),
        network="tiny",
        preprocessing=PREPROCESSING,
        mixed_precision=policy,
    )
    [row] = RunFolder(tmp_path).read_rows(9)
    assert row["train_loss"] < 3 and row["test_loss"] > 0
    assert {w.dtype for w in models[0].trainable_variables} == {tf.float32}
    assert models[0].get_layer("layer1.0.conv1").compute_dtype == policy.removeprefix("mixed_")
    fresh = tiny_network()
    moved = models[0].get_layer("conv1").kernel.numpy() - fresh.get_layer("conv1").kernel.numpy()
    assert np.abs(moved).max() > 1e-3
