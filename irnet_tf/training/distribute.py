"""Distribution strategies: which devices and hosts train a model."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading

from irnet_tf._compat import SlurmResolver
from irnet_tf._utils import check_choice
import tensorflow as tf

STRATEGIES = ("auto", "default", "mirrored", "multiworker")
_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
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
        with _default_interrupt():
            return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    except (tf.errors.OpError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"could not join the cluster {workers} ({reason}); start this program on every host, "
            "with addresses that the hosts can reach"
        ) from error


@contextlib.contextmanager
def _default_interrupt():
    """Lets Ctrl-C end the process: Python's own handler does not run while C++ waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cluster():
    """The resolver (None for a single worker) and the variable that describes the cluster."""
    if os.environ.get("TF_CONFIG"):
        several = _tf_config_workers(os.environ["TF_CONFIG"]) > 1
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver
        return (resolver() if several else None), "TF_CONFIG"
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if not tasks.isdecimal():
        raise ValueError(f"SLURM_STEP_NUM_TASKS is {tasks!r}, not a number; start with srun")
    return (_slurm() if int(tasks) > 1 else None), "SLURM_STEP_NUM_TASKS"


def _tf_config_workers(text: str) -> int:
    """The number of workers in `TF_CONFIG`, after a check of its content."""
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        if not cluster:
            return 1
        if surplus := set(cluster) - {"chief", "worker"}:
            raise ValueError(f"jobs {sorted(surplus)} are not supported, only chief and worker")
        for address in sum(cluster.values(), []):
            if not re.fullmatch(r".+:\d{1,5}", address) or int(address.rpartition(":")[2]) >= 2**16:
                raise ValueError(f"{address!r} is not HOST:PORT")
        if not 0 <= int(task["index"]) < len(cluster[task["type"]]):
            raise ValueError(f"task {task} is not in the cluster")
    except (
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"TF_CONFIG is {text[:200]!r} ({error}); expected for example {_EXAMPLE}"
        ) from None
    return sum(map(len, cluster.values()))


def _slurm() -> tf.distribute.cluster_resolver.SlurmClusterResolver:
    for name in ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID"):
        if not os.environ.get(name):
            raise ValueError(
                f"SLURM_STEP_NUM_TASKS is {os.environ['SLURM_STEP_NUM_TASKS']} but {name} is not "
                "set; start all tasks with srun, or unset SLURM_STEP_NUM_TASKS"
            )
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
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        found = {k: value for k, value in os.environ.items() if k.startswith("SLURM_STEP")}
        raise ValueError(
            f"Slurm's variables {found} do not describe a cluster ({error})"
        ) from error
    return resolver
