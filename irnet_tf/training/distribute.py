"""Distribution strategies, and the agreement of several workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import json
import os
from pathlib import Path
import re
import sys

from irnet_tf._compat import SlurmResolver
from irnet_tf._utils import check_choice, write_atomically
import numpy as np
import tensorflow as tf

STRATEGIES = ("auto", "default", "mirrored", "multiworker")
_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
_MAX_BYTES = 2000  # of a message between workers
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Creates a `tf.distribute` strategy. Call it before any other use of TensorFlow.

    The cluster is described by `TF_CONFIG` or is a Slurm job step of several tasks.

    Args:
        name: `"default"` (one device), `"mirrored"` (all GPUs of this machine), `"multiworker"`
            (all GPUs of all workers of the cluster), or `"auto"`: multiworker in a cluster,
            otherwise mirrored with several GPUs, otherwise default.

    Raises:
        ValueError: If the name is unknown, `TF_CONFIG` or Slurm's variables are not valid, the
            name does not match the cluster, or the other workers do not join.
    """
    check_choice("strategy", name, STRATEGIES)
    resolver, source = _cluster()
    if name == "auto":
        gpus = tf.config.list_physical_devices("GPU")
        name = "multiworker" if resolver else "mirrored" if len(gpus) > 1 else "default"
    if name == "multiworker":
        if not resolver:
            raise ValueError(
                "strategy 'multiworker' needs a cluster of several workers: set TF_CONFIG on "
                "each, or start them with srun"
            )
        return _join(resolver)
    if resolver:
        raise ValueError(
            f"{source} describes a cluster, but strategy {name!r} trains on one machine: use "
            f"'multiworker' or 'auto', or unset {source}"
        )
    return tf.distribute.MirroredStrategy() if name == "mirrored" else tf.distribute.get_strategy()


def _join(resolver) -> tf.distribute.Strategy:
    """Waits for the other workers, up to TensorFlow's time limit."""
    workers = resolver.cluster_spec().as_dict()
    print(
        f"{resolver.task_type} {resolver.task_id} waits for all of the cluster {workers}",
        file=sys.stderr,
        flush=True,
    )
    # The default uses NCCL only within a machine.
    nccl = "NCCL" if tf.config.list_physical_devices("GPU") else "AUTO"
    options = tf.distribute.experimental.CommunicationOptions(implementation=nccl)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    except (tf.errors.OpError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"could not join the cluster {workers} ({reason}); start this program on every host, "
            "with addresses that the hosts can reach"
        ) from error


def _cluster():
    """The resolver (None for a single worker) and the variable that describes the cluster."""
    if os.environ.get("TF_CONFIG"):
        return _tf_config(os.environ["TF_CONFIG"]), "TF_CONFIG"
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    return (None if tasks == "1" else _slurm()), "SLURM_STEP_NUM_TASKS"


def _tf_config(text: str) -> tf.distribute.cluster_resolver.TFConfigClusterResolver | None:
    try:
        cluster = json.loads(text).get("cluster", {})
        addresses = [address for job in cluster.values() for address in job]
        if len(addresses) < 2:
            return None
        if surplus := set(cluster) - {"chief", "worker"}:
            raise ValueError(f"jobs {sorted(surplus)} are not supported, only chief and worker")
        if wrong := [a for a in addresses if not re.fullmatch(r".+:[1-6]?\d{1,4}", a)]:
            raise ValueError(f"{wrong[0]!r} is not HOST:PORT")
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        resolver.cluster_spec().task_address(resolver.task_type, resolver.task_id)
        return resolver
    except Exception as error:  # the text can be anything
        raise ValueError(
            f"TF_CONFIG is {text[:200]!r} ({error}); expected for example {_EXAMPLE}"
        ) from None


def _slurm() -> tf.distribute.cluster_resolver.SlurmClusterResolver:
    try:
        # Each job gets its own ports, below Linux's ephemeral range.
        port = 12_000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 1000 * 16
        per_node = max(
            int(part.split("(")[0]) for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(",")
        )
        resolver = SlurmResolver(
            port_base=port, gpus_per_node=per_node, gpus_per_task=1, auto_set_gpu=False
        )
        resolver.cluster_spec()  # determines this process's task
        return resolver
    except Exception as error:  # the variables can be anything
        found = {k: value for k, value in os.environ.items() if k.startswith("SLURM_STEP")}
        raise ValueError(
            f"Slurm's variables {found} do not describe a cluster ({error!r}); start all tasks "
            "with srun, or unset SLURM_STEP_NUM_TASKS"
        ) from error


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
