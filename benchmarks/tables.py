"""What the benchmarks share: calls in turn, and tables that are printed and kept as JSON."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
import time

import numpy as np


def in_turns(runs: dict, turns: int, in_a_row: int = 1) -> dict:
    """Calls functions in turn, so that other programs on the machine disturb them alike.

    Args:
        runs: Functions by name.
        turns: Number of turns, after one that is not measured.
        in_a_row: Number of calls of each function per turn.

    Returns:
        Seconds `[turns, 2]` by name, median of the calls in a row: processor time and clock.
    """
    times = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            calls = []
            for _ in range(in_a_row):
                begin = time.process_time(), time.perf_counter()
                run()
                calls.append(np.subtract((time.process_time(), time.perf_counter()), begin))
            if turn:
                times[name].append(np.median(calls, 0))
    return {name: np.array(values) for name, values in times.items()}


def add_output(parser):
    parser.add_argument("--output", type=Path, help="JSON file for the tables and the machine")


def show(tables: dict, output: Path | None = None) -> None:
    """Prints tables (rows by name) in Markdown; writes them, machine and versions to `output`."""
    from irnet_tf._utils import processor
    from irnet_tf.training.config import versions
    import tensorflow as tf

    known = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "GPUs": [device.name for device in tf.config.list_physical_devices("GPU")],
        "versions": versions(),
    }
    print(f"{known['processor']}; {known['cores']} cores; {len(known['GPUs'])} GPUs")
    for name, rows in tables.items():
        print(f"\n## {name}\n\n| {' | '.join(rows[0])} |\n{'| --- ' * len(rows[0])}|")
        for row in rows:
            cells = (f"{v:,.4g}" if isinstance(v, float) else str(v) for v in row.values())
            print(f"| {' | '.join(cells)} |", flush=True)
    if output is not None:
        output.write_text(json.dumps({**known, "tables": tables}, indent=2) + "\n")
