"""Sets of trainings: networks x changes x seeds, and the table that they are made for.

    python -m irnet_tf.ablation SET.toml --output_dir=O

A set is a small TOML file:

    title = "what it is about"
    networks = ["digits/resnet20_bireal_1w1a"]
    seeds = [0, 1, 2]

    [flags]                        # of train.py, for every run
    epochs = 10

    [changes."plain sign"]         # a name, and the flags that make it
    kernel_quantizer = "ste_sign"
    [changes."as in the recipe"]   # none

Every run is a `train.py` of its own, several at a time where there are cores. Give the same
command again after it was stopped: runs that ended are kept, the others go on. What is left in
`O` is a run folder each and what `irnet_tf.compare` makes of them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

from irnet_tf import compare
import tensorflow as tf

_KEYS = ("title", "networks", "seeds", "flags", "changes")
_COMMAND = "command.json"
_TRAIN = Path(__file__).parents[1] / "train.py"


@dataclasses.dataclass(frozen=True)
class Set:
    """Which trainings belong together.

    Attributes:
        networks: names for train.py's `--model`.
        seeds: one run each.
        changes: from a change's name to the flags that make it; `{"": {}}`: no change.
        flags: of every run; those of a change come on top.
        title: what the set is about.

    Raises:
        ValueError: if there is nothing to run, or a value is of another type.
    """

    networks: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    changes: dict[str, dict] = dataclasses.field(default_factory=lambda: {"": {}})
    flags: dict = dataclasses.field(default_factory=dict)
    title: str = ""

    def __post_init__(self):
        for name, kind in (("networks", str), ("seeds", int)):
            values = getattr(self, name)
            whole = isinstance(values, (list, tuple)) and all(type(v) is kind for v in values)
            if not whole or not values or len(set(values)) < len(values):
                raise ValueError(
                    f"{name} must be a list of different {kind.__name__}, got {values!r}"
                )
        if not self.changes or not all(isinstance(c, dict) for c in self.changes.values()):
            raise ValueError(f"changes must be tables of flags by name, got {self.changes!r}")
        for flags in (self.flags, *self.changes.values()):
            own = {"model", "seed", "output_dir"} & set(flags)
            if own:
                raise ValueError(f"{sorted(own)} cannot be among the flags: the set chooses them")

    def runs(self) -> list[Run]:
        """All of them, seed by seed, so that a set that was stopped early can be compared."""
        runs = [
            Run(network, change, seed, {**self.flags, **flags})
            for seed in self.seeds
            for network in self.networks
            for change, flags in self.changes.items()
        ]
        folders = {run.folder for run in runs}
        if len(folders) < len(runs):
            raise ValueError("the changes' names must differ in letters and digits")
        return runs


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of a set."""

    network: str
    change: str
    seed: int
    flags: dict

    @property
    def folder(self) -> str:
        """Below the set's."""
        parts = (self.network, self.change or "as_is", f"seed{self.seed}")
        return "/".join(re.sub(r"\W+", "_", part).strip("_") for part in parts)

    def arguments(self) -> list[str]:
        """What train.py gets, but for the folders."""
        flags = {"model": self.network, "seed": self.seed, **self.flags}
        return [f"--{name}={_text(value)}" for name, value in flags.items()]


def read_set(path) -> Set:
    """A set from its TOML file.

    Raises:
        ValueError: if the file is not what the module's description shows.
        OSError: if it cannot be read.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib

    try:
        content = tomllib.loads(Path(path).read_text())
        unknown = sorted(set(content) - set(_KEYS))
        if unknown:
            raise ValueError(f"unknown key(s) {unknown}; known are {', '.join(_KEYS)}")
        if "networks" not in content:
            raise ValueError("it lacks networks, a list of names")
        return Set(**content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def run_set(
    experiment: Set, output_dir, *, data_dir=None, jobs: int | None = None, train=_TRAIN
) -> list[compare.Group]:
    """Train what has not been trained yet; then compare.

    Args:
        experiment: the set.
        output_dir: gets a run folder a run, and the table and picture of `compare.report`.
        data_dir: for train.py.
        jobs: how many runs at a time; None: one for each core that this process may use, or one
            where there is a GPU.
        train: path of train.py.

    Returns:
        The groups of runs that were compared.

    Raises:
        ValueError: if `jobs` is below 1, `output_dir` holds a run of another command, or a run
            failed: the others have been done then.
        OSError: if train.py is not where it should be.
    """
    cores = len(os.sched_getaffinity(0))
    if jobs is None:  # TensorFlow takes all memory of a GPU for one process
        jobs = 1 if tf.config.list_physical_devices("GPU") else cores
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if not Path(train).is_file():
        raise FileNotFoundError(f"there is no {train}; give the path of train.py")
    output_dir = Path(output_dir)
    runs = experiment.runs()
    pending = []
    for run in runs:
        _check_command(run, output_dir / run.folder)
        if not (output_dir / run.folder / "result.json").exists():
            pending.append(run)
    print(f"{experiment.title or 'set'}: {len(runs)} runs, {len(runs) - len(pending)} done before")
    failed = _Workers(output_dir, data_dir, train, max(1, cores // jobs)).run(pending, jobs)
    done = {output_dir / r.folder: r.change for r in runs if r not in failed}
    groups = []
    if done:
        groups = compare.report(list(done), output_dir, labels=done, title=experiment.title)
    if failed:
        logs = ", ".join(str(output_dir / run.folder / "log.txt") for run in failed)
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed; see {logs}")
    return groups


class _Workers:
    """Runs train.py in processes of their own; a lock keeps two from the same folder."""

    def __init__(self, output_dir, data_dir, train, threads):
        self._output_dir, self._data_dir, self._train = output_dir, data_dir, train
        self._environment = {
            **os.environ,
            "TF_NUM_INTRAOP_THREADS": str(threads),
            "TF_NUM_INTEROP_THREADS": "1",
            "OMP_NUM_THREADS": str(threads),
        }

    def run(self, pending: list[Run], jobs: int) -> list[Run]:
        """Those that failed."""
        waiting, working, failed = list(pending), {}, []
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; runs were saved"))
        try:
            while waiting or working:
                for run in list(waiting):
                    if len(working) == jobs:
                        break
                    try:
                        process = self._start(run)
                    except ValueError as error:
                        print(f"{run.folder}: FAILED: {error}", flush=True)
                        waiting.remove(run)
                        failed.append(run)
                        continue
                    if process:
                        working[run.folder] = (run, process, time.perf_counter())
                        waiting.remove(run)
                time.sleep(0.2)
                for run, process, begin in list(working.values()):
                    if process.poll() is None:
                        continue
                    del working[run.folder]
                    finished = (self._output_dir / run.folder / "result.json").exists()
                    if process.returncode or not finished:
                        failed.append(run)
                    done = len(pending) - len(waiting) - len(working)
                    print(
                        f"{done}/{len(pending)} {run.folder}: "
                        f"{'FAILED' if run in failed else 'done'} in "
                        f"{time.perf_counter() - begin:.0f} s",
                        flush=True,
                    )
        finally:
            for _, process, _ in working.values():
                process.terminate()  # train.py saves, then ends
            for _, process, _ in working.values():
                process.wait()
            signal.signal(signal.SIGTERM, before)
        return failed

    def _start(self, run: Run) -> subprocess.Popen | None:
        """None while a process that an earlier, killed command left behind still does it."""
        folder = self._output_dir / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115, the child holds it on
        with contextlib.closing(lock):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            _check_command(run, folder)  # of what was done meanwhile
            (folder / _COMMAND).write_text(json.dumps(run.arguments(), indent=2) + "\n")
            command = [sys.executable, str(self._train), *run.arguments(), f"--output_dir={folder}"]
            if self._data_dir:
                command.append(f"--data_dir={self._data_dir}")
            with open(folder / "log.txt", "a") as log:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    pass_fds=[lock.fileno()],
                    start_new_session=True,  # Ctrl-C is for this process, which passes it on
                )


def _check_command(run: Run, folder: Path) -> None:
    path = folder / _COMMAND
    begun = path.exists() and (folder / "config.json").exists()
    if begun and json.loads(path.read_text()) != run.arguments():
        raise ValueError(
            f"{folder} holds a run of another command ({' '.join(json.loads(path.read_text()))}); "
            f"now it would be {' '.join(run.arguments())}. Choose another output_dir, or delete it"
        )


def _text(value) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m irnet_tf.ablation", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("set", help="TOML file: networks, changes, seeds")
    parser.add_argument(
        "--output_dir", required=True, help="gets a run folder a run, and the table"
    )
    parser.add_argument("--data_dir", help="for train.py")
    parser.add_argument(
        "--jobs", type=int, help="runs at a time; if not given one a core, or one on a GPU"
    )
    parser.add_argument("--train", default=_TRAIN, help="path of train.py")
    arguments = parser.parse_args(argv)
    try:
        run_set(
            read_set(arguments.set),
            arguments.output_dir,
            data_dir=arguments.data_dir,
            jobs=arguments.jobs,
            train=arguments.train,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"ablation: {error}")
    except KeyboardInterrupt:
        sys.exit("ablation: stopped; give the same command to go on")


if __name__ == "__main__":
    main()
