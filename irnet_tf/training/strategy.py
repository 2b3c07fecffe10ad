"""Which devices and hosts share the work; TensorFlow's own strategies do it."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import json
import os

from irnet_tf._checks import check_choice
import numpy as np
import tensorflow as tf

STRATEGIES = ("auto", "default", "mirrored", "multiworker")


class WorkerLost(RuntimeError):
    """Another worker has gone; this one cannot go on without it."""


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy of a name. Call it before any other use of TensorFlow.

    A cluster is what `TF_CONFIG` describes, or a Slurm job step of several tasks.

    Args:
        name: `"default"` (one device), `"mirrored"` (all GPUs of this machine), `"multiworker"`
            (all GPUs of all workers of the cluster), or `"auto"`: multiworker where there is a
            cluster of several, else mirrored where there are several GPUs, else default.

    Raises:
        ValueError: if the name is none of these, `TF_CONFIG` is not what TensorFlow needs, or
            the name does not go with the cluster.
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
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    if resolver:
        raise ValueError(
            f"{source} describes a cluster, in which each worker would train by itself with "
            f"strategy {name!r}; use 'multiworker' or 'auto', or unset {source}"
        )
    return tf.distribute.MirroredStrategy() if name == "mirrored" else tf.distribute.get_strategy()


def _cluster():
    """A resolver, and the name of what describes the cluster; None if it has one worker."""
    if os.environ.get("TF_CONFIG"):
        workers = _check_tf_config(os.environ["TF_CONFIG"])
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        return (resolver if workers > 1 else None), "TF_CONFIG"
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return _slurm(), "SLURM_STEP_NUM_TASKS"
    return None, ""


def _check_tf_config(text: str) -> int:
    """The number of workers."""
    example = (
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        sizes = {job: len(addresses) for job, addresses in cluster.items()}
        kind, index = task.get("type"), int(task.get("index", -1))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG is {text!r} ({error}); it should be like {example}") from None
    if not sizes:
        return 1
    surplus = sorted(set(sizes) - {"chief", "worker"})
    if surplus:
        raise ValueError(
            f"TF_CONFIG has jobs {surplus}; all hosts do the same work here, so it may have "
            "workers and a chief only"
        )
    if not 0 <= index < sizes.get(kind, 0):
        raise ValueError(
            f"TF_CONFIG's task is {task}, which is not in its cluster of {sizes}; it should be "
            f"like {example}"
        )
    return sum(sizes.values())


def _slurm() -> tf.distribute.cluster_resolver.SlurmClusterResolver:
    base = tf.distribute.cluster_resolver.SlurmClusterResolver

    class Resolver(base):
        def _resolve_own_rank(self):
            """TensorFlow sorts hosts by name, Slurm by number: n10 comes before n9."""
            host, local = os.environ.get("SLURMD_NODENAME"), os.environ.get("SLURM_LOCALID")
            tasks = self._resolve_task_configuration()
            if host not in tasks or local is None:
                return super()._resolve_own_rank()
            return sum(n for other, n in tasks.items() if other < host) + int(local)

        def num_accelerators(self, task_type=None, task_id=None, config_proto=None):
            return {"GPU": len(tf.config.list_physical_devices("GPU"))}

    # Jobs that share a host get ports of their own, below those that Linux hands out.
    port = 12_000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 1000 * 16
    per_node = max(
        int(part.split("(")[0]) for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(",")
    )
    # Which GPUs a task sees is Slurm's to say, not TensorFlow's.
    resolver = Resolver(port_base=port, gpus_per_node=per_node, gpus_per_task=1, auto_set_gpu=False)
    resolver.cluster_spec()  # finds out which task this is
    return resolver


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

    def together(self, do: Callable[[], None]) -> None:
        """Do something that fails for all workers if it fails for one. All must call it.

        Raises:
            ValueError, OSError: what `do` raised here.
            ValueError: if it failed on another worker.
        """
        error = None
        try:
            do()
        except (ValueError, OSError) as caught:
            error = caught
        [failed] = self.any(error is not None)
        if error:
            raise error
        if failed:
            raise ValueError("another worker has stopped with an error; see its output")

    @contextlib.contextmanager
    def noticing_loss(self):
        """Turns the errors that TensorFlow raises when a worker has gone into `WorkerLost`."""
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
            reason = str(error).strip().splitlines()
            raise WorkerLost(f"{type(error).__name__}: {reason[-1] if reason else ''}") from error
