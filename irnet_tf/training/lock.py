"""One run a folder: a lock that a dead process does not keep, on one machine or several.

The lock is the file `lock` in the run folder. Its holder has it locked (`flock`), which ends with
the process however it ends. Some shared file systems do not pass such locks on from machine to
machine; so the holder also touches the file every few seconds. Whoever finds a file that was left
by another machine (another boot of one) watches it for a while: if it is touched, it is held.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
import socket
import threading
import time

_BEAT = 5.0  # seconds between two touches
_WATCH = 12.0  # seconds without one after which the holder is taken for dead


class Lock:
    """The lock of a run folder, which must exist; held until `release`, or until the process ends.

    Args:
        folder: the run folder.
        beat, watch: seconds between two touches, and how long a holder on another machine is
            watched for one.

    Raises:
        ValueError: if another process holds it; names host and process.
    """

    def __init__(self, folder: str | os.PathLike, beat: float = _BEAT, watch: float = _WATCH):
        self._path = Path(folder) / "lock"
        self._beat = beat
        self._watch = watch
        self._released = threading.Event()
        self._file, locks_work = self._open()
        try:
            self._refuse_a_living_holder_elsewhere(locks_work)
        except BaseException:
            self._file.close()
            raise
        self._file.seek(0)
        self._file.truncate()
        json.dump({"host": socket.gethostname(), "process": os.getpid(), "boot": _boot()},
                  self._file)  # fmt: skip
        self._file.flush()
        threading.Thread(target=self._touch, daemon=True).start()

    def _open(self):
        """The file, locked if the file system can do that, and whether it can."""
        while True:
            file = open(self._path, "a+")  # noqa: SIM115, it stays open
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    holder = _read(file)
                    file.close()
                    self._refuse(holder)
                return file, False
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                    return file, True
            file.close()  # it was released and deleted since it was opened

    def _refuse_a_living_holder_elsewhere(self, locks_work):
        holder = _read(self._file)
        if not holder or (locks_work and holder.get("boot") == _boot()):
            return
        first = self._touched()
        end = time.monotonic() + self._watch
        while time.monotonic() < end:
            time.sleep(min(0.5, self._watch / 10))
            with contextlib.suppress(FileNotFoundError):
                if self._touched() != first:
                    self._refuse(holder)

    def _touched(self) -> int:
        with open(self._path) as file:  # opening it makes NFS ask its server
            return os.fstat(file.fileno()).st_mtime_ns

    def _refuse(self, holder):
        who = f"process {holder.get('process')} on {holder.get('host')}" if holder else "a process"
        raise ValueError(
            f"output_dir {str(self._path.parent)!r} is in use by {who}; wait for its end, or "
            "choose another output_dir"
        )

    def _touch(self):
        while not self._released.wait(self._beat):
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        """Let others have the folder."""
        if not self._released.is_set():
            self._released.set()
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._file.close()


def _read(file) -> dict:
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _boot() -> str:
    """What tells one boot of one machine from all others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
