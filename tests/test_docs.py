"""What the documents tell people to type."""

import os
import re
import subprocess
import sys

from irnet_tf.model_config import get_model_config
from irnet_tf.preprocessing import CIFAR10
import numpy as np
from PIL import Image
import pytest
import yaml
import zoo

from tests.conftest import ROOT, run_train

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*"))]
DOCUMENTS = [path for path in DOCUMENTS if b"train.py" in path.read_bytes()]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def flags():
    """Every flag of train.py, by its own account."""
    return set(re.findall(r"--(?:\[no\])?(\w+)", run_train("--helpfull", check=False).stdout))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_flags_of_train_py_exist(flags, path):
    text = path.read_text().replace("\\\n", " ")
    commands = re.findall(r"train\.py ([^`\n]*)", text)
    named = {flag for command in commands for flag in re.findall(r"--(\w+)", command)}
    if path.name == "tfjob.yaml":
        named = set(re.findall(r"--(\w+)=", text))
    assert named <= flags, named - flags
    assert named


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_flags_of_other_commands_exist(path):
    """As their source names them."""
    text = path.read_text().replace("\\\n", " ")
    for command, rest in re.findall(r"python (benchmarks/\w+\.py|-m [\w.]+) ?([^`\n]*)", text):
        where = ROOT / command.removeprefix("-m ").replace(".", "/").replace("/py", ".py")
        sources = where.glob("*.py") if where.is_dir() else [where.with_suffix(".py")]
        known = re.findall(r'"(?:--)?(\w+)"', "".join(source.read_text() for source in sources))
        named = set(re.findall(r"--(\w+)", rest))
        assert named <= set(known), (command, named - set(known))


def test_fine_tuning_in_ten_lines(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / "MY_IMAGES/train" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "MY_IMAGES/train" / name / f"{i}.png")
    [code] = [block for block in blocks("python") if "image_dataset_from_directory" in block]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(code.replace("epochs=10", "epochs=1"), {})
    tuned = zoo.load("mine.safetensors")
    assert tuned.output_shape == (None, 3) and get_model_config(tuned).network.startswith(
        "cifar10/"
    )
    # As train.py normalises, README's other way: as the network says.
    assert "CIFAR10.normalise(x)" in code and get_model_config(tuned).preprocessing == CIFAR10


def test_tfjob_is_one():
    """What Kubeflow's operator reads: a container named tensorflow, workers, a restart policy."""
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
import zoo
from irnet_tf.models import cifar_resnet
"""


def test_a_notebook_that_imported_tensorflow_first_is_told_to_restart():
    """Cell after cell in one kernel, which goes on after an error."""
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
