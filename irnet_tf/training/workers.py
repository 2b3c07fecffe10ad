"""The processes that train together: what they tell each other, and what if one is lost."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
from pathlib import Path
import sys

from irnet_tf._utils import write_atomically
from irnet_tf.training.checkpoints import Checkpoints
import numpy as np
import tensorflow as tf


class WorkerLost(RuntimeError):
    """Another worker has gone; this one cannot go on without it."""


class Workers:
    """The processes that train together, and what they tell each other.

    Attributes:
        several: whether there is more than one.
        is_chief: whether this one writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        resolver = strategy.cluster_resolver
        self.several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and bool(
            resolver.cluster_spec().as_dict()
        )
        kind, index = (resolver.task_type, resolver.task_id) if self.several else (None, 0)
        has_chief = self.several and "chief" in resolver.cluster_spec().jobs
        self.is_chief = index == 0 and (kind == "chief" or not has_chief)

        @tf.function
        def gather(values):
            return strategy.gather(strategy.run(lambda: values[None]), axis=0)

        self._gather = gather

    def gather(self, values) -> np.ndarray:
        """The numbers that every worker gives, a row a replica. All workers must call it."""
        values = np.asarray(values, np.int64)
        if not self.several:
            return values[None]
        return self._gather(tf.constant(values)).numpy()

    def any(self, *wishes: bool) -> list[bool]:
        """Which of the wishes any worker has. All workers must call it."""
        return list(self.gather(wishes).any(axis=0))

    def together(self, do: Callable):
        """Do something that fails for all workers if it fails for one. All must call it.

        Returns:
            What `do` returned here.

        Raises:
            ValueError, OSError: what `do` raised here.
            ValueError: if it failed on another worker.
        """
        error = result = None
        try:
            result = do()
        except (ValueError, OSError) as caught:
            error = caught
        [failed] = self.any(error is not None)
        if error:
            raise error
        if failed:
            raise ValueError("another worker has stopped with an error; see its output")
        return result

    def check_all_found_the_same(self, found: tuple[int, int, int], output_dir: str) -> None:
        """Raises ValueError if workers have found different (epoch, step, rows) in a run folder."""
        different = {tuple(row) for row in self.gather(found).tolist()}
        if len(different) > 1:
            raise ValueError(
                f"the workers found different things in output_dir {output_dir!r}: (epoch, step, "
                f"rows of metrics.csv) {sorted(different)}; it must be a folder that all of them "
                "share"
            )

    @contextlib.contextmanager
    def telling_why(self, failure: Path):
        """Leaves the reason of an error in a file that all share: the others wait for this one."""
        try:
            yield
        except (ValueError, OSError) as error:
            if self.several:
                with contextlib.suppress(OSError):
                    write_atomically(failure, f"{error}\n")
            raise

    @contextlib.contextmanager
    def noticing_lost_workers(self, failure: Path | None = None):
        """Turns the errors that TensorFlow raises when a worker has gone into `WorkerLost`.

        Args:
            failure: the file of `telling_why`. If it is there, the error is a ValueError with that
                reason instead: it would be the same again.
        """
        try:
            yield
        except (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.CancelledError,
            tf.errors.DeadlineExceededError,
            tf.errors.InternalError,
        ) as error:
            if not self.several:
                raise
            if failure is not None and failure.exists():
                why = failure.read_text().strip()
                raise ValueError(f"another worker has stopped with an error: {why}") from error
            reason = str(error).strip().splitlines()
            raise WorkerLost(f"{type(error).__name__}: {reason[-1] if reason else ''}") from error


def start_again(error: WorkerLost, checkpoints: Path, arguments: list[str]) -> None:
    """Replace this process by a new one, which joins the cluster and resumes the run.

    Exits instead if that has failed three times since the last checkpoint.

    Args:
        error: why.
        checkpoints: the folder where they are.
        arguments: what Python is started with.
    """
    checkpoint = Checkpoints(checkpoints).last()
    before, _, times = os.environ.get("IRNET_TF_RESTARTS", "").rpartition("|")
    times = int(times) + 1 if times and before == str(checkpoint) else 1
    if times > 3:
        sys.exit(f"lost another worker ({error}) 4 times, and {checkpoint}; gave up")
    print(f"lost another worker ({error}); joining again", file=sys.stderr, flush=True)
    os.environ["IRNET_TF_RESTARTS"] = f"{checkpoint}|{times}"
    for descriptor in os.listdir("/proc/self/fd"):  # TensorFlow's ports among them
        with contextlib.suppress(OSError):
            os.set_inheritable(int(descriptor), int(descriptor) < 3)
    os.execv(sys.executable, [sys.executable, *arguments])
