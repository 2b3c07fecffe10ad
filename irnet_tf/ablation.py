"""Sets of runs: networks x changes x seeds, and the table that compares them.

    python -m irnet_tf.ablation SET.toml --output_dir=O

A set is a TOML file:

    title = "title of the figure"
    networks = ["digits/resnet20_bireal_1w1a"]
    seeds = [0, 1, 2]

    [flags]                        # flags of train.py for every run
    epochs = 10

    [changes."plain sign"]         # a name, and the flags of this change
    kernel_quantizer = "ste_sign"
    [changes.unchanged]

The whole set is checked before the first run starts. The runs follow one after the other, each a
process of `train.py` with a run folder below `O`. The same command skips finished runs, resumes
the others, and compares all with `irnet_tf.compare`.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from pathlib import Path
import re
import signal
import subprocess
import sys

from absl import flags as absl_flags
from irnet_tf import compare
from irnet_tf._utils import networks_package
from irnet_tf.training import flags as train_flags

_KEYS = {"title": str, "networks": list, "seeds": list, "flags": dict, "changes": dict}
_RESERVED = {"model", "seed", "data_dir", "output_dir", "mode", "resume", "overwrite"}
_TRAIN = Path(__file__).parents[1] / "train.py"


def read_set(path) -> tuple[str, dict[str, tuple[str, list[str]]]]:
    """Read and check a set.

    Returns:
        Title, and from each run's folder to its change and its arguments of train.py, seed by
        seed, so that an unfinished set can be compared.

    Raises:
        ValueError: If the file is not a set, or a network, flag or value does not exist.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib

    content = {"title": "", "networks": [], "seeds": [0], "flags": {}, "changes": {"": {}}}
    content |= tomllib.loads(Path(path).read_text())
    for key, value in content.items():
        if not isinstance(value, _KEYS.get(key, ())):
            kinds = ", ".join(f"{k} ({kind.__name__})" for k, kind in _KEYS.items())
            raise ValueError(f"unexpected {key} = {value!r}; a set has {kinds}")
    runs = {}
    for seed, network, (change, changed) in itertools.product(
        content["seeds"], content["networks"], content["changes"].items()
    ):
        flags = {**content["flags"], **changed}
        if wrong := _RESERVED & set(flags):
            raise ValueError(f"flags {sorted(wrong)} cannot be part of a set")
        parts = (network, change or "unchanged", f"seed{seed}")
        folder = "/".join(re.sub(r"\W+", "_", part).strip("_") for part in parts)
        if folder in runs:
            raise ValueError(f"two runs have the name {folder}; rename one change")
        flags = {"model": network, "seed": seed, **flags}
        runs[folder] = (change, [f"--{name}={value}" for name, value in flags.items()])
        _check(runs[folder][1])
    if not runs:
        raise ValueError("the set has no run; networks is a list of names")
    return content["title"], runs


def _check(arguments: list[str]) -> None:
    """Raises ValueError if train.py would reject the arguments."""
    try:
        values = _parse(arguments)
        train_flags.make_recipe(networks_package().info(values.model).recipes, values)
        _build(values.model, json.dumps(train_flags.given(values, train_flags.NETWORK)))
    except (ValueError, absl_flags.Error) as error:
        raise ValueError(f"{' '.join(arguments)}: {error}") from error


@functools.cache  # most runs of a set have the same network
def _build(network, arguments):
    networks_package().load(network, None, **json.loads(arguments))


def _parse(arguments):
    values = absl_flags.FlagValues()
    train_flags.define(values)
    train_flags.check(values, values(["train.py", *arguments]))
    return values


def run_set(title: str, runs: dict, output_dir, *, data_dir=None) -> list[compare.Group]:
    """Train the runs that are not finished, then compare all.

    Args:
        title, runs: As `read_set` returns them.
        output_dir: Folder for the run folders, and the tables and figure of `compare.report`.
        data_dir: Flag of train.py.

    Raises:
        ValueError: If `output_dir` holds a finished run with other flags, or, after all runs, if
            one of them failed.
    """
    output_dir = Path(output_dir)
    pending = [name for name, run in runs.items() if not _finished(run[1], output_dir / name)]
    print(f"{len(runs)} runs, {len(runs) - len(pending)} finished", flush=True)
    failed = []
    for i, name in enumerate(pending, 1):
        print(f"[{i}/{len(pending)}] {name}", flush=True)
        command = [sys.executable, str(_TRAIN), *runs[name][1], f"--output_dir={output_dir / name}"]
        # If this process is stopped, the run is killed; it resumes after its last epoch.
        if subprocess.call(command + ([f"--data_dir={data_dir}"] if data_dir else [])):
            failed.append(name)
    done = [name for name in runs if name not in failed]
    paths, changes = [output_dir / name for name in done], [runs[name][0] for name in done]
    groups = compare.report(paths, output_dir, changes, title) if done else []
    if failed:
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}")
    return groups


def _finished(arguments, folder) -> bool:
    if not (folder / "result.json").exists():
        return False
    found = json.loads((folder / "config.json").read_text())["flags"]
    wanted = json.loads(json.dumps(train_flags.given(_parse(arguments), train_flags.NAMES)))
    names = {*found, *wanted} - _RESERVED  # model and seed are in the folder's name
    if differing := sorted(name for name in names if found.get(name) != wanted.get(name)):
        raise ValueError(
            f"{folder} holds a run with other values of {', '.join(differing)}; choose another "
            "output_dir or delete it"
        )
    return True


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m irnet_tf.ablation", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("set", help="TOML file: networks, changes, seeds")
    parser.add_argument("--output_dir", required=True, help="folder for the runs and the table")
    parser.add_argument("--data_dir", help="flag of train.py")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ablation: stopped"))
    try:
        title, runs = read_set(arguments.set)
        run_set(title, runs, arguments.output_dir, data_dir=arguments.data_dir)
    except (ValueError, OSError) as error:
        sys.exit(f"ablation {arguments.set}: {error}")
    except KeyboardInterrupt:
        sys.exit("ablation: stopped; the same command resumes the set")


if __name__ == "__main__":
    main()
