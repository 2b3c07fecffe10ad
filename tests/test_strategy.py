"""Several replicas and several workers, as processes on loopback."""

import json
import os
import re
import signal
import socket
import time

from irnet_tf.training import make_strategy
from irnet_tf.training.distribute import _slurm
import numpy as np
import pytest

from tests.conftest import assert_same_run, result_of, start_python, wait_for
from tests.tiny import start_tiny

# ---- which strategy ----------------------------------------------------------------------------

TWO = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
CLUSTERS = [
    ("auto", {"TF_CONFIG": text}, "TF_CONFIG is .*expected for example")
    for text in (
        "{cluster}", "[1, 2]", "1e400", "null", "[" * 5000,
        '{"cluster": {"worker": 3}}',
        '{"cluster": {"worker": ["nohost", "b:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:99999"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": ["worker"], "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}, '
        '"task": {"type": "ps", "index": 0}}',
    )
] + [
    ("ring", {}, "strategy must be one of 'auto', 'default', 'mirrored', 'multiworker'"),
    ("multiworker", {}, "needs a cluster of several workers: set TF_CONFIG"),
    ("default", {"TF_CONFIG": TWO}, "strategy 'default' trains on one machine: use 'multiworker'"),
    ("auto", {"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_TASKS_PER_NODE"),
    ("auto", {"SLURM_STEP_NUM_TASKS": "two"}, "do not describe a cluster"),
    ("auto", {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n[", "SLURM_PROCID": "0",
      "SLURM_STEP_TASKS_PER_NODE": "x"}, "do not describe a cluster"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "environment", "message"), CLUSTERS)
def test_a_strategy_that_does_not_match_the_cluster_is_rejected(
    monkeypatch, name, environment, message
):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        make_strategy(name)


@pytest.mark.parametrize(
    ("nodes", "node", "local", "task"),
    [("n[9-10]", "n9", 0, 1), ("n[9-10]", "n10", 0, 0),
     ("m[2,11]", "m2", 1, 3), ("m[2,11]", "m11", 0, 0)],
)  # fmt: skip
def test_slurm_tasks_find_their_own_address(monkeypatch, nodes, node, local, task):
    """TensorFlow sorts the hosts by name, so that n10 is before n9; Slurm has n9 first."""
    per_node = 2 if nodes == "m[2,11]" else 1
    for name, value in slurm_variables(nodes, per_node, 2, 0, local, node, 1003).items():
        monkeypatch.setenv(name, value)
    resolver = _slurm()
    assert resolver.task_id == task
    address = resolver.cluster_spec().task_address("worker", resolver.task_id)
    assert address == f"{node}:{12_000 + 3 * 16 + local}"


# ---- the same weights --------------------------------------------------------------------------


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def tf_config(n):
    """TF_CONFIG of a chief and n - 1 workers."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(n)]
    cluster = {"chief": addresses[:1], "worker": addresses[1:]}
    tasks = [{"type": job, "index": i} for job in cluster for i in range(len(cluster[job]))]
    return [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]


def slurm_variables(nodes, per_node, hosts, process, local, node, job):
    """What srun sets."""
    tasks = f"{per_node}(x{hosts})" if hosts > 1 else str(per_node)
    return {
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_STEP_NUM_TASKS": str(per_node * hosts),
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(local),
        "SLURMD_NODENAME": node,
        "SLURM_JOB_ID": str(job),
    }


def slurm(n):
    """n tasks on this machine."""
    return [slurm_variables("localhost", n, 1, i, i, "localhost", os.getpid()) for i in range(n)]


def finish(processes, code=0):
    """Their outputs; fails if any ends in another way, and leaves none behind."""
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == len(processes) * [code], "\n".join(output[-3000:] for output in outputs)
    return outputs


def ten_steps(folder, environments, *flags):
    """What every worker holds after ten steps: the network's variables `{NUMBER.REPLICA: value}`.

    Checks that t and the number of steps, which the learning rate follows, are right on all.
    """
    processes = []
    for i, environment in enumerate(environments):
        paths = [f"--output_dir={folder / 'run'}", f"--dump={folder / str(i)}.npz"]
        processes.append(start_python("-m", "tests.worker", *paths, *flags, env=environment))
    finish(processes)
    dumps = [dict(np.load(folder / f"{i}.npz")) for i in range(len(environments))]
    for values in dumps:
        assert (values.pop("t") == 0.1).all() and (values.pop("iterations") == 10).all()
    return dumps


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    [values] = ten_steps(tmp_path_factory.mktemp("one"), [{}])
    return values


def assert_equal(dumps, one_process):
    """All replicas of all workers bit for bit, and one process up to rounding."""
    for values in dumps:
        for name, value in values.items():
            first = f"{name[:3]}.0"
            np.testing.assert_array_equal(value, dumps[0][first], err_msg=name)
            np.testing.assert_allclose(value, one_process[first], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_fit_with_the_callbacks_ends_with_the_same_weights(
    tmp_path, replicas, one_process, two_replicas
):
    """`Model.fit` with `compile_model` and the callbacks, against `train`."""
    expected = one_process if replicas == 1 else two_replicas
    [values] = ten_steps(tmp_path, [{}], f"--replicas={replicas}", "--fit")
    assert values.keys() == expected.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("replicas", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_replicas_end_with_the_weights_of_one_device(tmp_path, one_process, replicas):
    dumps = ten_steps(tmp_path, [{}], f"--replicas={replicas}", "--sync_batch_norm")
    assert len(dumps[0]) == replicas * len(one_process)
    assert_equal(dumps, one_process)


@pytest.mark.parametrize(
    ("n", "environment"),
    [(2, tf_config), pytest.param(3, slurm, marks=pytest.mark.slow)],
)
def test_workers_end_with_the_weights_of_one_process(tmp_path, one_process, n, environment):
    dumps = ten_steps(tmp_path, environment(n), "--sync_batch_norm")
    assert [len(values) for values in dumps] == n * [len(one_process)]
    assert_equal(dumps, one_process)
    assert result_of(tmp_path / "run")["final"]["epoch"] == 1


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory):
    [values] = ten_steps(tmp_path_factory.mktemp("two"), [{}], "--replicas=2")
    return values


def test_batch_norm_is_per_replica_unless_synchronised(two_replicas, one_process):
    """As in the authors' code; at an epoch's end the statistics are averaged."""
    assert any(abs(two_replicas[name] - one_process[name]).max() > 1e-4 for name in one_process)
    for name, value in two_replicas.items():
        np.testing.assert_array_equal(value, two_replicas[f"{name[:3]}.0"], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_a_run_is_resumed_on_another_number_of_replicas(tmp_path, first, second):
    finish([start_tiny(tmp_path, "fail=true", f"replicas={first}")], code=1)
    [output] = finish([start_tiny(tmp_path, f"replicas={second}")])
    assert "resuming after epoch 1 of 2" in output
    assert result_of(tmp_path)["final"]["epoch"] == 2


@pytest.mark.slow
def test_xla_on_several_replicas_ends_with_the_same_weights(tmp_path, two_replicas):
    [values] = ten_steps(tmp_path, [{}], "--replicas=2", "--jit_compile")
    assert values.keys() == two_replicas.keys()
    # XLA fuses the augmentation, which is float32, with the network.
    for name, value in values.items():
        np.testing.assert_allclose(value, two_replicas[name], rtol=0, atol=1e-7, err_msg=name)


@pytest.mark.slow
def test_loss_scaling_on_several_devices(tmp_path):
    [values] = ten_steps(tmp_path, [{}], "--replicas=2", "--mixed_precision=mixed_float16")
    for name, value in values.items():
        assert value.dtype == np.float32 and np.isfinite(value).all(), name
        np.testing.assert_array_equal(value, values[f"{name[:3]}.0"], err_msg=name)


def test_xla_with_synchronised_batch_norm_is_rejected(tmp_path):
    with pytest.raises(AssertionError, match="XLA cannot compile synchronised batch norm"):
        ten_steps(tmp_path, [{}], "--replicas=2", "--jit_compile", "--sync_batch_norm")


# ---- workers that stop -------------------------------------------------------------------------

_CHANGES = ["epochs=2", "batch_size=12", "images=132", "seed=3"]  # 11 steps an epoch


def start(folder, environments, *changes, **own):
    """Starts a worker per environment; `own` are further changes, by `worker0`, `worker1`."""
    return [
        start_tiny(folder, *changes, *own.get(f"worker{i}", ()), env=environment)
        for i, environment in enumerate(environments)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_all_and_the_run_is_resumed(tmp_path, victim):
    """The resumed run ends with the same weights, bit for bit, as one that was never killed."""
    environments = tf_config(2)
    workers = start(tmp_path / "run", environments, *_CHANGES)
    wait_for(workers[0], "epoch 2/2: step 1/11")
    workers[victim].send_signal(signal.SIGKILL)
    workers[victim].communicate()
    assert not (tmp_path / "run/result.json").exists(), "the run was over before it was killed"
    [output] = finish([workers[1 - victim]], code=1)
    assert "another worker stopped: " in output and "Traceback" not in output
    assert "Start all workers again with the same command to resume the run" in output
    outputs = finish(start(tmp_path / "run", environments, *_CHANGES))
    assert "resuming after epoch 1 of 2" in outputs[0]
    assert "epoch" not in outputs[1], "only the chief prints"
    finish(start(tmp_path / "whole", tf_config(2), *_CHANGES))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_error_of_one_worker_is_printed_by_all(tmp_path, victim):
    environments = tf_config(2)
    outputs = finish(start(tmp_path, environments, **{f"worker{victim}": ["fail=true"]}), code=1)
    assert "an image is broken" in outputs[victim]
    assert "another worker stopped: an image is broken" in outputs[1 - victim]
    assert "resuming after epoch 1 of 2" in finish(start(tmp_path, environments))[0]


@pytest.mark.slow
def test_sigterm_to_one_worker_stops_all(tmp_path):
    workers = start(tmp_path, tf_config(2), "epochs=1", "batch_size=2", "images=400")
    wait_for(workers[0], "/200,")
    workers[1].send_signal(signal.SIGTERM)
    outputs = finish(workers, code=1)
    assert "stopped by SIGTERM; the same command starts again" in outputs[1]
    assert "another worker stopped: stopped by SIGTERM" in outputs[0]


@pytest.mark.slow
def test_a_nan_loss_stops_all_workers(tmp_path):
    for output in finish(start(tmp_path, tf_config(2), "epochs=1", "learning_rate=1e30"), code=1):
        assert "the loss is nan in epoch 1" in output


@pytest.mark.slow
def test_printed_metrics_are_those_of_all_workers(tmp_path):
    outputs = finish(start(tmp_path, tf_config(2), "images=48"))
    steps = re.findall(r"epoch 1/2: step 6/6, loss ([\d.]+), accuracy ([\d.]+)%", outputs[0])
    [(loss, accuracy)] = re.findall(
        r"epoch 1/2: loss ([\d.]+), training accuracy ([\d.]+)%", outputs[0]
    )
    assert steps == [(f"{float(loss):.3f}", f"{float(accuracy):.1f}")]
    assert "batch norm uses 4 images per replica" in outputs[0]


def test_a_worker_prints_that_it_waits_and_can_be_interrupted():
    process = start_python("train.py", env=tf_config(2)[1])
    wait_for(process, "worker 0 waits for all of the cluster")
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT


@pytest.mark.parametrize(
    ("folder", "change", "message"),
    [
        ("run", "learning_rate=0.5", "recipe.learning_rate: 0.05, now 0.5"),
        pytest.param(
            *("elsewhere", "epochs=1", "must be a folder that all workers share"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_workers_that_differ_do_not_start(tmp_path, folder, change, message):
    first, second = tf_config(2)
    workers = start(tmp_path / "run", [first], "epochs=1")
    workers += start(tmp_path / folder, [second], "epochs=1", change)
    outputs = finish(workers, code=1)
    assert message in outputs[1]
    assert "another worker stopped: " in outputs[0] and message in outputs[0]


def test_an_error_of_the_chief_at_the_start_stops_all(tmp_path):
    (tmp_path / "config.json").write_text('{"identity": {"seed": 1, "recipe": {}}}')
    outputs = finish(start(tmp_path, tf_config(2), "epochs=1"), code=1)
    assert "holds another run" in outputs[0]
    assert "another worker stopped: " in outputs[1] and "holds another run" in outputs[1]
