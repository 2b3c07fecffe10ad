"""Private parts of Larq and Keras that this project relies on, each with a test of its own.

Nothing else in the project touches a private name of theirs, so that the day one of them
changes is a day with one red test.
"""

from __future__ import annotations

import contextlib
import logging

from larq.quantizers import _BaseQuantizer as LarqQuantizer  # its metrics need this base class

__all__ = ["LarqQuantizer", "without_starvation_warning"]


@contextlib.contextmanager
def without_starvation_warning():
    """Larq warns of binary weights without a constraint; standardised ones need none."""
    log = logging.getLogger("larq.layers_base")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
