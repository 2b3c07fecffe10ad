"""How long things take on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
import platform
import re
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


_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp")


def processor() -> str:
    """The processor's architecture, name, and the instruction sets that matter here."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = flags[1].split() if flags else []
    parts = [platform.machine(), name[1] if name else platform.processor()]
    parts.append(" ".join(flag for flag in _INSTRUCTIONS if flag in flags))
    return ", ".join(part for part in parts if part)


def caveat(report) -> str | None:
    """What a latency measured here does not say."""
    if report["format"] != "Larq Compute Engine" or "x86" not in report["latency"]["machine"]:
        return None
    return (
        "Larq's kernels are made for 64-bit ARM; on x86 portable code runs, and what is measured "
        "says nothing of a device. For x86 export to OpenVINO (.xml)."
    )
