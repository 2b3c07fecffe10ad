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
        ValueError: If the file is not a set as in the module docstring, or a network, flag or
            value does not exist.
        OSError: If the file cannot be read.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib

    try:
        content = {"seeds": [0], "changes": {"": {}}, **tomllib.loads(Path(path).read_text())}
        for key, value in content.items():
            if not isinstance(value, _KEYS.get(key, ())):
                kinds = ", ".join(f"{k} ({kind.__name__})" for k, kind in _KEYS.items())
                raise ValueError(f"unexpected {key} = {value!r}; a set has {kinds}")
        runs = {}
        for seed, network, (change, changed) in itertools.product(
            content["seeds"], content.get("networks", []), content["changes"].items()
        ):
            flags = {**content.get("flags", {}), **changed}
            if wrong := set(flags) & _RESERVED:
                raise ValueError(f"flags {sorted(wrong)} cannot be part of a set")
            parts = (network, change or "unchanged", f"seed{seed}")
            folder = "/".join(re.sub(r"\W+", "_", part).strip("_") for part in parts)
            if folder in runs:
                raise ValueError(f"two runs have the name {folder}; rename one change")
            flags = {"model": network, "seed": seed, **flags}
            arguments = [f"--{name}={_text(value)}" for name, value in flags.items()]
            _parse(arguments)
            runs[folder] = (change, arguments)
        if not runs:
            raise ValueError("the set has no run; networks is a list of names")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return content.get("title", ""), runs


def run_set(title: str, runs: dict, output_dir, *, data_dir=None) -> list[compare.Group]:
    """Train the runs that are not finished, then compare all.

    Args:
        title: Title of the figure.
        runs: Runs as `read_set` returns them.
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
        process = subprocess.Popen(command + ([f"--data_dir={data_dir}"] if data_dir else []))
        try:
            if process.wait():
                failed.append(name)
        except BaseException:
            process.terminate()  # train.py saves a checkpoint
            process.wait()
            raise
    done = {output_dir / name: run[0] for name, run in runs.items() if name not in failed}
    groups = compare.report(list(done), output_dir, labels=done, title=title) if done else []
    if failed:
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}")
    return groups


def _parse(arguments) -> dict:
    """Values of the flags. Raises ValueError if train.py would reject the arguments."""
    import zoo  # as train.py; irnet_tf itself does not need it

    values = absl_flags.FlagValues()
    train_flags.define(values)
    try:
        train_flags.check(values, values(["train.py", *arguments]))
        train_flags.make_recipe(zoo.info(values.model).recipes, values)
        _build(values.model, json.dumps(train_flags.given(values, train_flags.NETWORK)))
    except (ValueError, absl_flags.Error) as error:
        raise ValueError(f"{' '.join(arguments)}: {error}") from error
    return {name: values[name].value for name in values}


@functools.cache  # seeds and most changes have the same network
def _build(network: str, arguments: str) -> None:
    import zoo

    zoo.load(network, None, **json.loads(arguments))


def _finished(arguments, folder) -> bool:
    if not (folder / "result.json").exists():
        return False
    flags = json.loads((folder / "config.json").read_text())["flags"]
    wanted = json.loads(json.dumps(_parse(arguments)))
    free = {"data_dir", "output_dir", "resume", "overwrite"}
    names = {argument[2:].partition("=")[0] for argument in arguments} | set(flags) - free
    if differing := sorted(name for name in names if flags.get(name) != wanted.get(name)):
        raise ValueError(
            f"{folder} holds a run with other values of {', '.join(differing)}; choose another "
            "output_dir or delete it"
        )
    return True


def _text(value) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


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
        sys.exit(f"ablation: {error}")
    except KeyboardInterrupt:
        sys.exit("ablation: stopped; the same command resumes the set")


if __name__ == "__main__":
    main()
