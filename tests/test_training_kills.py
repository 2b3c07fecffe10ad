"""A run killed at any of its file operations is resumed and ends with the same files."""

import csv
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import traceback

import irnet_tf  # noqa: F401, before TensorFlow
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.tiny import tiny_train

_TIMES = ("seconds", "images_per_second")


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_a_file_operation_ends_with_the_same_files(tmp_path, step):
    process = subprocess.run(
        [sys.executable, "-m", "tests.test_training_kills", str(tmp_path), str(step)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout)
    assert found["operations"] > 20 and found["kills"] == -(-found["operations"] // step)
    assert not found["failures"]


class _Killer:
    """Kills the process at one of its operations on files of a folder, which it counts.

    An audit hook sees Python's operations. Those of TensorFlow's C++ lie between two of them.
    """

    def __init__(self, folder: Path, kill_at: int | None):
        self.folder = str(folder)
        self.kill_at = kill_at
        self.operations = []

    def __enter__(self):
        sys.addaudithook(self._hook)
        return self

    def __exit__(self, *error):
        self.folder = "/nowhere"  # an audit hook stays

    def count(self, name: str) -> bool:
        self.operations.append(name)
        return len(self.operations) == self.kill_at

    def _hook(self, event, arguments):
        kinds = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, (str, os.PathLike)):
                return
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in kinds:
            return
        if str(arguments[0]).startswith(self.folder) and self.count(f"{event} {arguments[0]}"):
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, kill_at: int | None = None) -> tuple[int, list[str]]:
    """Runs in a fork; returns its exit status and, if that is 0, its operations."""
    log, note = folder.with_suffix(".log"), folder.with_suffix(".operations")
    child = os.fork()
    if not child:
        status = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            tf.config.run_functions_eagerly(True)  # tracing would take most of the time
            with _Killer(folder, kill_at) as killer:
                tiny_train(folder)
            note.write_text(json.dumps(killer.operations))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    return status, json.loads(note.read_text()) if status == 0 else []


def files_of(folder: Path) -> dict:
    """What must be equal whenever the run was killed."""
    with open(folder / "metrics.csv") as file:
        rows = [{k: v for k, v in row.items() if k not in _TIMES} for row in csv.DictReader(file)]
    result = json.loads((folder / "result.json").read_text())
    return {
        "files": sorted(p.name for p in folder.iterdir()),
        "checkpoints": sorted(p.name for p in (folder / "checkpoints").iterdir()),
        "rows": rows,
        "final": (folder / "final.safetensors").read_bytes().hex(),
        "best": (folder / "best.safetensors").read_bytes().hex(),
        "result": [result["final"], result["best"]],
    }


def main(folder: Path, step: int) -> None:
    """Kills at every `step`-th operation; prints JSON: operations, kills, failures."""
    whole = folder / "whole"
    status, operations = run(whole)
    assert status == 0, whole.with_suffix(".log").read_text()[-3000:]
    expected = files_of(whole)
    failures, kills = [], 0
    for kill_at in range(1, len(operations) + 1, step):
        killed = folder / f"killed{kill_at}"
        first, _ = run(killed, kill_at)
        kills += first == signal.SIGKILL
        status, _ = run(killed)
        log = killed.with_suffix(".log").read_text()[-1000:]
        found = files_of(killed) if status == 0 else {}
        wrong = [name for name in expected if found.get(name) != expected[name]]
        if wrong or first != signal.SIGKILL:
            failures.append([operations[kill_at - 1], first, wrong, log])
        shutil.rmtree(killed)
    print(json.dumps({"operations": len(operations), "kills": kills, "failures": failures}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
