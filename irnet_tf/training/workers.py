"""Several workers in one run: one of them writes, and all of them stop when one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
from pathlib import Path

from irnet_tf._utils import write_atomically
import numpy as np
import tensorflow as tf

_MAX_BYTES = 2000  # of a message between workers
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


class WorkerLost(RuntimeError):
    """Another worker has stopped; the same command on all workers resumes the run."""


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """True for the worker that writes the run folder."""
    return strategy.extended.should_checkpoint


def has_workers(strategy: tf.distribute.Strategy) -> bool:
    """True if the strategy has several workers."""
    multiworker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return multiworker and bool(strategy.cluster_resolver.cluster_spec().as_dict())


def gather(strategy: tf.distribute.Strategy, text: str) -> list[str]:
    """The texts of all workers, at least one each. All workers must call it."""
    if not has_workers(strategy):
        return [text]
    data = np.frombuffer(text.encode()[:_MAX_BYTES].ljust(_MAX_BYTES, b"\0"), np.uint8)

    @tf.function
    def gather_rows(row):
        return strategy.gather(strategy.run(lambda: row[None]), axis=0)

    rows = gather_rows(tf.constant(data, tf.int32)).numpy().astype(np.uint8)
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]


def on_all_workers(strategy: tf.distribute.Strategy, action: Callable):
    """Runs `action` on every worker. All workers must call it.

    Returns:
        The result of `action` on this worker.

    Raises:
        ValueError, OSError: The error of `action` on this worker.
        ValueError: If `action` failed on another worker; with its message.
    """
    error = result = None
    try:
        result = action()
    except (ValueError, OSError) as caught:
        error = caught
    messages = [message for message in gather(strategy, str(error or "")) if message]
    if error:
        raise error
    if messages:
        raise ValueError(f"another worker stopped: {messages[0]}")
    return result


@contextlib.contextmanager
def stop_all_workers(strategy: tf.distribute.Strategy, reason: Path) -> Iterator[None]:
    """Within it, an error of one worker stops all of them with a message.

    Args:
        strategy: The run's strategy.
        reason: File in the shared run folder that holds the message of the worker that failed.

    Raises:
        WorkerLost: If another worker has stopped.
    """
    try:
        yield
    except _LOST as error:
        if not has_workers(strategy):
            raise
        lines = str(error).strip().splitlines()
        message = f"{type(error).__name__}: {lines[-1] if lines else ''}"
        if reason.exists():
            message = reason.read_text().strip()
        raise WorkerLost(
            f"another worker stopped: {message}\nStart all workers again with the same command to "
            "resume the run"
        ) from error
    except (ValueError, OSError, SystemExit) as error:
        if has_workers(strategy) and reason.parent.is_dir():
            with contextlib.suppress(OSError):
                write_atomically(reason, f"{error}\n")
        raise
