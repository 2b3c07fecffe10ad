"""Sets of trainings: every run once, whatever stops them."""

import csv
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from irnet_tf import ablation
import pytest

from tests.conftest import ROOT

# Takes the same flags and leaves the same files as train.py, within a second.
_TRAIN = """
import csv, json, os, pathlib, signal, sys, time, zlib
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
folder = pathlib.Path(flags.pop("output_dir"))
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
if flags.get("fail") == "true":
    sys.exit("this one fails")
with open(folder / "starts", "a") as file:
    file.write(f"{os.getpid()}\\n")
identity = {"network": flags["model"], "seed": int(flags["seed"]), "data": {"name": "d"},
            "recipe": {"epochs": 4, "rate": flags.get("rate")}}
(folder / "config.json").write_text(json.dumps({"identity": identity}))
metrics = folder / "metrics.csv"
rows = list(csv.DictReader(open(metrics))) if metrics.exists() else []
while len(rows) < 4:
    time.sleep(0.25)
    if stop:
        sys.exit(143)
    accuracy = zlib.crc32(f"{flags}{len(rows)}".encode()) / 2**32
    rows.append(dict(epoch=len(rows) + 1, train_loss=1, train_accuracy=accuracy, test_loss=1,
                     test_accuracy=accuracy, images_per_second=1, seconds=1))
    part = folder / "part"
    with open(part, "w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, metrics)
(folder / "result.json").write_text("{}")
"""

_SET = """
networks = ["x/one", "x/two"]
seeds = [0, 1]
[flags]
epochs = 4
[changes."slow, wide"]
rate = 0.1
[changes.fast]
rate = 0.5
"""


@pytest.fixture
def small(tmp_path):
    (tmp_path / "train.py").write_text(_TRAIN)
    (tmp_path / "set.toml").write_text(_SET)
    return tmp_path


def start(folder, name, *more):
    command = [sys.executable, "-m", "irnet_tf.ablation", str(folder / "set.toml")]
    command += [f"--output_dir={folder / name}", f"--train={folder / 'train.py'}", *more]
    with open(folder / f"{name}.log", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)


def wait_until(condition, seconds=90):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.05)


def results(folder):
    return sorted(p.parent.relative_to(folder) for p in Path(folder).rglob("result.json"))


def table(folder):
    """What does not depend on how fast the machine was."""
    rows = list(csv.DictReader((Path(folder) / "table.csv").read_text().splitlines()))
    return [{k: v for k, v in r.items() if k not in ("images/s", "minutes")} for r in rows]


@pytest.mark.slow
def test_a_set_that_was_killed_twice_ends_with_the_same_table(small):
    assert start(small, "whole", "--jobs=8").wait() == 0
    assert [row["changed"] for row in table(small / "whole")] == ["slow, wide", "fast"] * 2
    assert {row["seeds"] for row in table(small / "whole")} == {"0, 1"}

    stopped = small / "stopped"
    first = start(small, "stopped", "--jobs=2")
    wait_until(lambda: len(results(stopped)) >= 1)
    first.kill()  # its two processes are left behind, and end by themselves
    first.wait()
    left_behind = list(stopped.rglob("starts"))
    second = start(small, "stopped", "--jobs=2")
    wait_until(lambda: len(results(stopped)) >= 4)
    second.terminate()
    assert second.wait() != 0
    assert len(results(stopped)) < 8
    assert start(small, "stopped", "--jobs=2").wait() == 0
    assert table(stopped) == table(small / "whole")
    assert all(len(path.read_text().split()) == 1 for path in left_behind)


def test_a_failed_run_does_not_stop_the_others_and_is_named(small, capfd):
    (small / "set.toml").write_text(_SET + "fail = true\n")
    experiment = ablation.read_set(small / "set.toml")
    with pytest.raises(ValueError, match=r"4 of 8 runs failed; see .*fast/seed0/log.txt"):
        ablation.run_set(experiment, small / "out", train=small / "train.py", jobs=8)
    assert len(results(small / "out")) == 4
    assert [row["changed"] for row in table(small / "out")] == ["slow, wide"] * 2
    assert "this one fails" in (small / "out/x_one/fast/seed0/log.txt").read_text()


def test_where_all_runs_fail_the_logs_are_named_and_a_corrected_set_begins(small):
    wrong = ablation.Set(networks=("x/one",), flags={"fail": True})
    with pytest.raises(ValueError, match=r"1 of 1 runs failed; see .*/log.txt"):
        ablation.run_set(wrong, small / "out", train=small / "train.py")
    right = ablation.Set(networks=("x/one",))
    ablation.run_set(right, small / "out", train=small / "train.py")
    assert len(results(small / "out")) == 1


def test_a_folder_of_another_set_is_refused(small):
    experiment = ablation.Set(networks=("x/one",))
    ablation.run_set(experiment, small / "out", train=small / "train.py")
    other = ablation.Set(networks=("x/one",), flags={"rate": 1})
    with pytest.raises(ValueError, match="holds a run of another command .*--rate=1"):
        ablation.run_set(other, small / "out", train=small / "train.py")


def test_what_train_py_gets():
    experiment = ablation.Set(("a/b",), (3,), {"c": {"rate": 2e-4, "on": True, "at": [0.5, 0.7]}})
    [run] = experiment.runs()
    assert run.arguments() == [
        "--model=a/b", "--seed=3", "--rate=0.0002", "--on=true", "--at=0.5,0.7"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network = 'a'", "unknown key.*'network'.*networks"),
        ("seeds = [1]", "lacks networks"),
        ("networks = 'a'", "networks must be a list"),
        ("networks = ['a']\nseeds = [1, 1]", "seeds must be a list of different"),
        ("networks = ['a']\n[flags]\nseed = 1", "'seed'.* cannot be among the flags"),
        ("networks = ['a']\nchanges.b = 1", "changes must be tables"),
        ("networks = [", "set.toml"),
    ],
)
def test_a_wrong_set_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "set.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        ablation.read_set(tmp_path / "set.toml")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/sets").glob("*.toml")), ids=str)
def test_shipped_sets_can_be_read(path):
    import zoo

    experiment = ablation.read_set(path)
    assert experiment.runs() and set(experiment.networks) <= set(zoo.list_models())


@pytest.mark.slow
def test_trainings_that_were_killed_twice_end_with_the_same_table(tmp_path):
    (tmp_path / "set.toml").write_text(
        'networks = ["digits/resnet20_bireal_1w1a"]\n[flags]\nepochs = 2\nbatch_size = 256\n'
        '[changes.sign]\nkernel_quantizer = "ste_sign"\ninput_quantizer = "ste_sign"\n'
        "[changes.both]\n"
    )
    (tmp_path / "train.py").write_text((ROOT / "train.py").read_text())
    jobs = f"--jobs={len(os.sched_getaffinity(0))}"
    assert start(tmp_path, "whole", jobs).wait() == 0
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        process = start(tmp_path, "stopped", jobs)
        seen = len(list((tmp_path / "stopped").rglob("ckpt-*.index")))
        wait_until(lambda n=seen: len(list((tmp_path / "stopped").rglob("ckpt-*.index"))) > n, 300)
        process.send_signal(signal_number)
        process.wait()
    assert start(tmp_path, "stopped", jobs).wait() == 0
    assert table(tmp_path / "stopped") == table(tmp_path / "whole")
