"""Commands of the documentation exist."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT, run_train

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*"))]
DOCUMENTS = [path for path in DOCUMENTS if b"train.py" in path.read_bytes()]


@pytest.fixture(scope="module")
def flags():
    """All flags of train.py."""
    return set(re.findall(r"--(?:\[no\])?(\w+)", run_train("--help").stdout))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_flags_of_train_py_exist(flags, path):
    text = path.read_text().replace("\\\n", " ")
    commands = re.findall(r"train\.py ([^`\n]*)", text)
    named = {flag for command in commands for flag in re.findall(r"--(\w+)", command)}
    if path.name == "tfjob.yaml":
        named = set(re.findall(r"--(\w+)=", text))
    assert named <= flags | {"help"}, named - flags


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_flags_of_other_commands_exist(path):
    text = path.read_text().replace("\\\n", " ")
    for command, rest in re.findall(r"python (benchmarks/\w+\.py|-m [\w.]+) ?([^`\n]*)", text):
        where = ROOT / command.removeprefix("-m ").replace(".", "/").replace("/py", ".py")
        sources = where.glob("*.py") if where.is_dir() else [where.with_suffix(".py")]
        known = re.findall(r'"(?:--)?(\w+)"', "".join(source.read_text() for source in sources))
        named = set(re.findall(r"--(\w+)", rest))
        assert named <= set(known), (command, named - set(known))


def test_tfjob_is_valid():
    """Fields that Kubeflow's operator reads."""
    job = yaml.safe_load((ROOT / "docs/tfjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    [(role, worker)] = job["spec"]["tfReplicaSpecs"].items()
    assert role == "Worker" and worker["replicas"] > 1 and worker["restartPolicy"] == "OnFailure"
    pod = worker["template"]["spec"]
    [container] = pod["containers"]
    assert container["name"] == "tensorflow" and container["command"][:2] == ["python", "train.py"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    devices = worker["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"]
    [batch] = [c for c in container["command"] if c.startswith("--batch_size=")]
    assert int(batch.split("=")[1]) % devices == 0


_CELLS = """
import tensorflow as tf; tf.keras.Model
import irnet_tf
import os; os.environ["TF_USE_LEGACY_KERAS"] = "1"; import irnet_tf
import zoo; zoo.load
from irnet_tf.models import cifar_resnet
"""


def test_importing_tensorflow_first_in_a_notebook_is_an_error():
    """Each cell runs in the same kernel, which continues after an error."""
    code = "".join(
        f"try:\n    {cell}\nexcept BaseException as e:\n    print(type(e).__name__, e)\n"
        for cell in _CELLS.strip().splitlines()
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    answers = done.stdout.splitlines()
    assert len(answers) == 4, done.stdout + done.stderr
    for answer in answers:
        assert answer.startswith("ImportError irnet_tf needs Keras 2, but "), answer
        assert "Import irnet_tf before tensorflow" in answer and "restart the kernel" in answer
