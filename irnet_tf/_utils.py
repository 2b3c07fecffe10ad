"""Argument checks, files written atomically, the processor's name."""

from __future__ import annotations

import contextlib
import difflib
import os
from pathlib import Path
import platform
import re
import stat

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


def check_choice(name: str, value, choices) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices or isinstance(value, bool):
        allowed = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


def nearest(name: str, known) -> str:
    """A question that offers what is nearest to `name` among `known`, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Write aside, flush to the disk, then rename: whoever looks sees the old file or the new one.

    Args:
        path: of the file; its folder must exist.
        content: text is encoded as UTF-8.

    Raises:
        OSError: if that fails; nothing is left behind then.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(beside)


def read_regular(path: str | os.PathLike, max_bytes: int) -> bytes:
    """The content of a regular file of a bounded size.

    Raises:
        ValueError: if it is a pipe, a device or anything else that may have no end, or larger.
        OSError: if it cannot be read.
    """

    def without_waiting(path, flags):  # opening a pipe would wait for whoever writes into it
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{os.fspath(path)!r} is not a regular file; give the path of one")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(
            f"{os.fspath(path)!r} has {status.st_size} bytes; at most {max_bytes} are expected"
        )
    return content
