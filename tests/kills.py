"""Kills a tiny training at each of its file operations, resumes it, and compares what is left.

    python -m tests.kills FOLDER [every|SAMPLE]     # prints JSON: operations, kills, failures

Counted are what Python does to files in the run folder (an audit hook sees it), and of what
TensorFlow does itself: the checkpoint that is half written, and the one whose index is empty.
Every run is a fork of a process that has imported TensorFlow and not used it yet.
"""

import csv
import json
import os
from pathlib import Path
import shutil
import signal
import sys
import traceback

from irnet_tf.training.run_dir import FIELDS
import tensorflow as tf

from tests.tiny import tiny_train

_TIMES = ("seconds", "images_per_second")


class _Killer:
    """Counts operations on files in a folder, and kills the process at one of them."""

    def __init__(self, folder: Path, at: int | None):
        self.folder = str(folder)
        self.at = at
        self.operations = []

    def __enter__(self):
        sys.addaudithook(self._hook)
        write = tf.train.Checkpoint.write

        def write_and_count(checkpoint, path, options=None):
            written = write(checkpoint, path, options)
            if self.count(f"half of {path}"):
                data = Path(f"{path}.data-00000-of-00001")
                data.write_bytes(data.read_bytes()[:100])
                Path(f"{path}.index").unlink()
                self.kill()
            if self.count(f"empty index of {path}"):
                Path(f"{path}.index").write_bytes(b"")
                self.kill()
            return written

        tf.train.Checkpoint.write = write_and_count
        return self

    def __exit__(self, *error):
        self.folder = "/nowhere"  # an audit hook stays

    def count(self, what: str) -> bool:
        self.operations.append(what)
        return len(self.operations) == self.at

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

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
            self.kill()


def run(folder: Path, at: int | None = None, log: Path | None = None) -> tuple[int, list[str]]:
    """A training in a fork: its exit status (0: all went well), and its operations if it ended."""
    note = folder.with_name(f"{folder.name}.operations")
    child = os.fork()
    if not child:
        status = 1
        try:
            out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            tf.config.run_functions_eagerly(True)  # tracing would take most of the time
            with _Killer(folder, at) as killer:
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


def left_by(folder: Path) -> dict:
    """What must be the same whatever happened."""
    with open(folder / "metrics.csv") as file:
        rows = [{k: v for k, v in row.items() if k not in _TIMES} for row in csv.DictReader(file)]
    assert all(set(row) == {*FIELDS} - {*_TIMES} for row in rows)
    result = json.loads((folder / "result.json").read_text())
    return {
        "files": sorted(p.name for p in folder.iterdir()),
        "rows": rows,
        "final": (folder / "final.safetensors").read_bytes().hex(),
        "best": (folder / "best.safetensors").read_bytes().hex(),
        "result": [result["final"], result["best"]],
        "curves": (folder / "curves.png").read_bytes()[:4].hex(),
    }


def sweep(folder: Path, sample: int | None) -> dict:
    """Kill at every operation, or at every `sample`-th."""
    whole = folder / "whole"
    status, operations = run(whole, log=folder / "whole.log")
    assert status == 0, (folder / "whole.log").read_text()[-3000:]
    expected = left_by(whole)
    failures, kills = [], 0
    for at in range(1, len(operations) + 1, sample or 1):
        killed = folder / f"killed{at}"
        log = folder / f"killed{at}.log"
        status, _ = run(killed, at, log)
        kills += status == signal.SIGKILL
        again, _ = run(killed, log=log)
        try:
            assert status == signal.SIGKILL, f"was not killed, ended with {status}"
            assert again == 0, log.read_text()[-1000:]
            found = left_by(killed)
            wrong = [name for name in expected if found[name] != expected[name]]
            assert not wrong, f"other {', '.join(wrong)}"
        except (AssertionError, OSError) as error:
            failures.append([operations[at - 1], str(error)])
        shutil.rmtree(killed, ignore_errors=True)
    return {"operations": len(operations), "kills": kills, "failures": failures}


if __name__ == "__main__":
    every = sys.argv[2] == "every"
    print(json.dumps(sweep(Path(sys.argv[1]), None if every else int(sys.argv[2]))))
