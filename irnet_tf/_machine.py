"""Which machine this is."""

from __future__ import annotations

from pathlib import Path
import platform
import re

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
