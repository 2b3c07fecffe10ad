"""Argument checks, tables, atomic file writing, the name of the processor."""

from __future__ import annotations

import csv
import difflib
import importlib
from importlib import metadata
import io
import os
from pathlib import Path
import platform
import re
import uuid

_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp")


def processor() -> str:
    """Returns architecture, name and relevant instruction sets of the processor."""
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
    """Returns "did you mean ...?" with the names closest to `name`, or all known names."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


def networks_package():
    """Returns the installed package that loads networks by name, such as the zoo.

    irnet_tf does not know it. It has the entry point `irnet_tf.networks`, and `load` and `info`.
    """
    for entry in metadata.entry_points(group="irnet_tf.networks"):
        return importlib.import_module(entry.module)
    raise ValueError("no installed package loads networks by name; `pip install -e .` adds the zoo")


def csv_text(names, rows) -> str:
    """Returns the text of a CSV file from column names and rows of values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *rows])
    return text.getvalue()


def markdown_table(names, rows) -> str:
    """Returns a Markdown table with aligned columns from column names and rows of texts."""
    widths = [max(map(len, column)) for column in zip(names, *rows)]
    lines = [names, ["-" * width for width in widths], *rows]
    cells = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file so that readers see the old content or the new one.

    Args:
        path: Path of the file in an existing folder.
        content: Content; text is encoded as UTF-8.

    Raises:
        OSError: If writing fails. The old file is unchanged then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # threads may write it too
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_regular(path: str | os.PathLike, max_bytes: int) -> bytes:
    """Returns the content of a regular file of limited size.

    Raises:
        ValueError: If it is not a regular file (a pipe or device may have no end) or is too large.
        OSError: If it cannot be read.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{os.fspath(path)!r} is not a regular file")
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{os.fspath(path)!r} is too large; at most {max_bytes} bytes are allowed")
    return content
