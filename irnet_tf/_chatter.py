"""TensorFlow's start-up messages, which its C++ libraries write while they are imported."""

import contextlib
import os
import sys


@contextlib.contextmanager
def quiet_import():
    """Discards standard error if `TF_CPP_MIN_LOG_LEVEL` is 3, which this project's commands set."""
    if sys.argv[:1] == ["-m"]:  # Python is looking for the module of `python -m zoo`
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        yield
        return
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
