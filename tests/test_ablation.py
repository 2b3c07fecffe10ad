"""Sets of runs: checked before the first run, every run once, whatever stops them."""

import csv
import json
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

from irnet_tf import ablation
from irnet_tf.training import flags as train_flags
from irnet_tf.training.run_dir import COLUMNS
from PIL import Image
import pytest

from tests.conftest import ROOT

# Writes the files of train.py, within a second.
_TRAIN = f"""
import csv, json, pathlib, sys
flags = {train_flags.given(ablation._parse([]), train_flags.NAMES)}
for name, value in (argument[2:].split("=", 1) for argument in sys.argv[1:]):
    flags[name] = json.loads(value) if value[0].isdigit() else value
if "momentum" in flags:
    sys.exit("fails")
identity = {{name: flags[name] for name in ("seed", "learning_rate")}}
identity.update(network=flags["model"], data={{"name": "d"}})
folder = pathlib.Path(flags["output_dir"])
folder.mkdir(parents=True)
(folder / "config.json").write_text(json.dumps({{"identity": identity, "flags": flags}}))
with open(folder / "metrics.csv", "w") as file:
    writer = csv.DictWriter(file, {COLUMNS}, restval=1)
    writer.writeheader()
    writer.writerow({{"epoch": 1, "test_accuracy": flags["learning_rate"] + flags["seed"] / 10}})
(folder / "result.json").write_text("{{}}")
"""
_SET = """
networks = ["digits/resnet20_bireal_1w1a"]
seeds = [0, 1]
[flags]
epochs = 1
[changes."slow, steady"]
learning_rate = 0.1
[changes.fast]
learning_rate = 0.5
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(_TRAIN)
    (tmp_path / "set.toml").write_text(_SET)
    monkeypatch.setattr(ablation, "_TRAIN", tmp_path / "train.py")
    return tmp_path


def run(folder, text=None):
    if text:
        (folder / "set.toml").write_text(text)
    return ablation.run_set(*ablation.read_set(folder / "set.toml"), folder / "out")


def table(folder):
    """The columns that do not depend on the machine's speed."""
    rows = list(csv.DictReader((Path(folder) / "table.csv").read_text().splitlines()))
    return [{k: v for k, v in r.items() if k not in ("images/s", "minutes")} for r in rows]


def test_runs_are_compared_and_finished_ones_are_skipped(small, capsys):
    groups = run(small)
    found = [(group.changed, len(group.runs)) for group in groups]
    assert found == [("slow, steady", 2), ("fast", 2)]
    before = table(small / "out")
    assert before[1]["last %"] == "55.00 ± 7.07"
    shutil.rmtree(next((small / "out").rglob("fast/seed1")))
    capsys.readouterr()
    run(small)
    assert capsys.readouterr().out.startswith("4 runs, 3 finished\n[1/1] digits")
    assert table(small / "out") == before
    with pytest.raises(ValueError, match="holds a run with other values of learning_rate"):
        run(small, _SET.replace("0.5", "0.25"))


def test_a_failed_run_is_reported_after_the_others(small):
    with pytest.raises(ValueError, match="2 of 4 runs failed: .*fast/seed0, .*fast/seed1"):
        run(small, f"{_SET}momentum = 0.5\n")
    assert [row["changed"] for row in table(small / "out")] == ["slow, steady"]


NETWORK = "networks = ['digits/resnet20_bireal_1w1a']\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network = 'a'", "unexpected network = 'a'; a set has title"),
        ("seeds = [1]", "the set has no run"),
        ("networks = 'a'", "unexpected networks = 'a'"),
        (f"{NETWORK}seeds = [1, 1]", "two runs have the name"),
        (f"{NETWORK}flags.seed = 1", "'seed'.* cannot be part of a set"),
        ("networks = [", "at end of document"),
        ("networks = ['digits/resnet21']", "resnet21"),
        (f"{NETWORK}[changes]\na.epochs = 1\nb.epoch = 1", "--epoch=1: Unknown command line flag"),
        (f"{NETWORK}[changes]\na.epochs = 1\nb.epochs = 'two'", "--epochs=two"),
        (f"{NETWORK}flags.recipe = 'quick'", "--recipe=quick.*quick"),
        (f"{NETWORK}flags.momentum = 2.0", "momentum"),
        (f"{NETWORK}flags.kernel_quantizer = 'sine'", "sine"),
        (f"{NETWORK}flags.depth = 21", "21"),
    ],
)
def test_a_set_is_checked_as_a_whole(tmp_path, text, message):
    (tmp_path / "set.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        ablation.read_set(tmp_path / "set.toml")


@pytest.mark.slow
def test_shipped_sets_pass_the_check():
    for path in (ROOT / "benchmarks/sets").glob("*.toml"):
        title, runs = ablation.read_set(path)
        assert title and len(runs) >= 10


@pytest.mark.slow
def test_a_set_that_was_stopped_ends_with_the_same_table(tmp_path):
    """With train.py itself."""
    for i in range(16):
        (tmp_path / f"images/{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (100 * (i % 2), 10 * i, 0)).save(
            tmp_path / f"images/{i % 2}/{i}.png"
        )
    (tmp_path / "set.toml").write_text(
        f"{NETWORK}[flags]\nepochs = 2\nbatch_size = 4\nvalidation_split = 0.5\n[changes]\n"
        "plain.kernel_quantizer = 'ste_sign'\nboth = {}\n"
    )

    def start(name):
        command = [sys.executable, "-m", "irnet_tf.ablation", str(tmp_path / "set.toml")]
        folders = [f"--output_dir={tmp_path / name}", f"--data_dir={tmp_path / 'images'}"]
        return subprocess.Popen(command + folders, cwd=ROOT)

    assert start("whole").wait() == 0
    process = start("stopped")
    deadline = time.time() + 300
    while not list((tmp_path / "stopped").rglob("ckpt-1.index")):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() != 0
    assert start("stopped").wait() == 0
    assert table(tmp_path / "stopped") == table(tmp_path / "whole")
    flags = json.loads(next((tmp_path / "whole").rglob("config.json")).read_text())["flags"]
    assert flags["epochs"] == 2
