"""Which devices and hosts share the work; TensorFlow's own strategies do it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time

from irnet_tf._compat import SlurmResolver
from irnet_tf._utils import check_choice
import tensorflow as tf

STRATEGIES = ("auto", "default", "mirrored", "multiworker")


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy of a name. Call it before any other use of TensorFlow.

    A cluster is what `TF_CONFIG` describes, or a Slurm job step of several tasks.

    Args:
        name: `"default"` (one device), `"mirrored"` (all GPUs of this machine), `"multiworker"`
            (all GPUs of all workers of the cluster), or `"auto"`: multiworker where there is a
            cluster of several, else mirrored where there are several GPUs, else default.

    Raises:
        ValueError: if the name is none of these, `TF_CONFIG` or Slurm's variables are not what
            TensorFlow needs, the name does not go with the cluster, or the other workers do not
            come.
    """
    check_choice("strategy", name, STRATEGIES)
    resolver, source = _cluster()
    if name == "auto":
        if resolver:
            name = "multiworker"
        else:
            several = len(tf.config.list_physical_devices("GPU")) > 1
            name = "mirrored" if several else "default"
    if name == "multiworker":
        if not resolver:
            raise ValueError(
                "strategy 'multiworker' needs a cluster of several workers: set TF_CONFIG on "
                "each, or start them with srun"
            )
        return _join(resolver)
    if resolver:
        raise ValueError(
            f"{source} describes a cluster, in which each worker would train by itself with "
            f"strategy {name!r}; use 'multiworker' or 'auto', or unset {source}"
        )
    return tf.distribute.MirroredStrategy() if name == "mirrored" else tf.distribute.get_strategy()


def _join(resolver) -> tf.distribute.Strategy:
    """Waits for the other workers, as long as TensorFlow does; Ctrl-C ends it."""
    began = time.monotonic()
    workers = resolver.cluster_spec().as_dict()
    print(
        f"{resolver.task_type} {resolver.task_id} waits for all of the cluster {workers}",
        file=sys.stderr,
        flush=True,
    )
    # By itself TensorFlow takes NCCL within a machine only.
    nccl = "NCCL" if tf.config.list_physical_devices("GPU") else "AUTO"
    options = tf.distribute.experimental.CommunicationOptions(implementation=nccl)
    try:
        with _ending_at_interrupts():
            return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    except (tf.errors.OpError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"could not join the cluster {workers} within {time.monotonic() - began:.0f} s "
            f"({reason[0] if reason else type(error).__name__}); start this program on all of "
            "them, with addresses at which they reach each other"
        ) from error


@contextlib.contextmanager
def _ending_at_interrupts():
    """TensorFlow waits in C++, where Python's handler of SIGINT would never be called."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cluster():
    """A resolver, and the name of what describes the cluster; None if it has one worker."""
    if os.environ.get("TF_CONFIG"):
        workers = _check_tf_config(os.environ["TF_CONFIG"])
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        return (resolver if workers > 1 else None), "TF_CONFIG"
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if not tasks.isdecimal():
        raise ValueError(f"SLURM_STEP_NUM_TASKS is {tasks!r}, not a number; start with srun")
    return (_slurm() if int(tasks) > 1 else None), "SLURM_STEP_NUM_TASKS"


_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def _check_tf_config(text: str) -> int:
    """The number of workers."""
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        for addresses in cluster.values():
            if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
                raise ValueError(f"{addresses!r} is not a list of HOST:PORT")
        sizes = {job: len(addresses) for job, addresses in cluster.items()}
        kind, index = task.get("type"), task.get("index", -1)
        if not isinstance(index, (int, str)) or isinstance(index, bool):
            raise ValueError(f"{index!r} is not an index")
        index = int(index)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"TF_CONFIG is {text[:200]!r} ({error}); it should be like {_EXAMPLE}"
        ) from None
    if not sizes:
        return 1
    surplus = sorted(set(sizes) - {"chief", "worker"})
    if surplus:
        raise ValueError(
            f"TF_CONFIG has jobs {surplus}; all hosts do the same work here, so it may have "
            "workers and a chief only"
        )
    if not isinstance(kind, str) or not 0 <= index < sizes.get(kind, 0):
        raise ValueError(
            f"TF_CONFIG's task is {task}, which is not in its cluster of {sizes}; it should be "
            f"like {_EXAMPLE}"
        )
    return sum(sizes.values())


def _is_address(text) -> bool:
    if not isinstance(text, str):
        return False
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16


def _slurm() -> tf.distribute.cluster_resolver.SlurmClusterResolver:
    missing = [
        name
        for name in ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID")
        if not os.environ.get(name)
    ]
    if missing:
        raise ValueError(
            f"SLURM_STEP_NUM_TASKS is {os.environ['SLURM_STEP_NUM_TASKS']} but {missing[0]} is not "
            "set; start all tasks with srun, or unset SLURM_STEP_NUM_TASKS to train alone"
        )

    # Jobs that share a host get ports of their own, below those that Linux hands out.
    try:
        port = 12_000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 1000 * 16
        per_node = max(
            int(part.split("(")[0]) for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(",")
        )
        # Which GPUs a task sees is Slurm's to say, not TensorFlow's.
        resolver = SlurmResolver(
            port_base=port, gpus_per_node=per_node, gpus_per_task=1, auto_set_gpu=False
        )
        resolver.cluster_spec()  # finds out which task this is
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        found = {k: value for k, value in os.environ.items() if k.startswith("SLURM_STEP")}
        raise ValueError(
            f"Slurm's variables {found} do not describe a cluster ({error})"
        ) from error
    return resolver
