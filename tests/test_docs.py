"""The site builds without a warning; commands of the documentation exist and work."""

import contextlib
import glob
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image
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


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    zoo_page = (tmp_path / "zoo/index.html").read_text()
    run = json.loads((ROOT / "zoo/results/cifar10_resnet20_bireal_1w1a/result.json").read_text())
    accuracy = f"{100 * run.get('shipped', run['final'])['accuracy']:.2f}"
    for text in ("imagenet/resnet18_bireal_1w1a", "1,676.3", accuracy, "--model=cifar10/"):
        assert text in zoo_page
    method = (tmp_path / "method/index.html").read_text()
    assert "quantizers.py, line" in method and "libra_pb" in method
    api = (tmp_path / "api/irnet_tf.export/index.html").read_text()
    assert api.count('id="irnet_tf.export.compare"') == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that holds MY_IMAGES, with four dark and four light images for each split."""
    path = tmp_path_factory.mktemp("guides")
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for i, name in enumerate(("dark", "light")):
            (path / "MY_IMAGES" / part / name).mkdir(parents=True)
            for k in range(4):
                pixels = rng.integers(120 * i, 120 * i + 100, (40, 50, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(path / "MY_IMAGES" / part / name / f"{k}.png")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("page", ["walkthroughs", "finetune"])
def test_guides_work(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = (ROOT / f"docs/{page}.md").read_text()
    for language, code in re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL):
        if language == "bash":
            command = code.replace("\\\n", " ").replace("python ", f"{sys.executable} ", 1)
            command = command.replace(" train.py", f" {ROOT / 'train.py'}")
            if "export" in command:
                pytest.importorskip("larq_compute_engine")
            if "--weights=pretrained" in command:
                command += " --epochs=1"
            words = [w for word in command.split() for w in sorted(glob.glob(word)) or [word]]
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, (command, done.stderr[-3000:])
        else:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, {})
            assert "dark" in printed.getvalue() and "light" in printed.getvalue()
