"""The site builds without a warning, and the commands of its guides work."""

import contextlib
import glob
import io
import json
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from tests.conftest import ROOT


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
