"""How long things take on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import time

import numpy as np


def interleaved_ms(runs: Mapping[str, Callable], seconds: float = 1.0, least: int = 5) -> dict:
    """The median time of each call, taken in turn, so that all meet the same company.

    Args:
        runs: functions by name.
        seconds: how long to go on, for each.
        least: how many calls of each there are at least.

    Returns:
        Milliseconds by name.
    """
    times = {name: [] for name in runs}
    for call in runs.values():
        call()
    until = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < until or len(next(iter(times.values()))) < least:
        for name, call in runs.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(values)) for name, values in times.items()}


def caveat(report) -> str | None:
    """What a latency measured here does not say."""
    if report["format"] != "Larq Compute Engine" or "x86" not in report["latency"]["machine"]:
        return None
    return (
        "Larq's kernels are made for 64-bit ARM; on x86 portable code runs, and what is measured "
        "says nothing of a device. For x86 export to OpenVINO (.xml)."
    )
