"""TensorFlow's libraries log from C++, past Python's settings: commands drop those lines."""

import os
import re
import signal
import sys

# A log line of its C++ parts, and what TensorFlow Lite says without a mark.
_CHATTER = re.compile(
    rb"[IWE]\d{4} |WARNING: All log messages before|\d{4}-.{22,26}: [IWE] |"
    rb"INFO: Created TensorFlow Lite|fully_quantize: "
)


def drop_chatter_of_commands() -> None:
    """Do so if this process is `python -m` of this project, or a script that asks for it.

    A script asks with a global `__drops_chatter__` before it imports irnet_tf. While Python
    looks for the module that `-m` names, `sys.argv[0]` is `"-m"`.
    """
    named = {argument.split(".")[0] for argument in sys.orig_argv}
    ours = sys.argv[:1] == ["-m"] and named & {"irnet_tf", "zoo"}
    if ours or hasattr(sys.modules["__main__"], "__drops_chatter__"):
        drop_chatter()


def drop_chatter() -> None:
    """Let a process of its own drop those lines; TensorFlow must not be loaded yet.

    It outlives this one, so that the last words of a crash are not lost. What Python writes to
    stderr does not go through it. TF_CPP_MIN_LOG_LEVEL below 3 leaves everything as it is.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        return
    kept, (read, write) = os.dup(2), os.pipe()
    if not os.fork():
        os.close(write)
        for number in (signal.SIGINT, signal.SIGTERM):  # to the whole group
            signal.signal(number, signal.SIG_IGN)
        with os.fdopen(read, "rb") as lines, os.fdopen(kept, "wb", 0) as stderr:
            for line in lines:
                if not _CHATTER.match(line):
                    stderr.write(line)
        os._exit(0)
    os.close(read)
    os.dup2(write, 2)
    os.close(write)
    sys.stderr = os.fdopen(kept, "w", 1)
