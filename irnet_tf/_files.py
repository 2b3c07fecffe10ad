"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
import stat


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
