"""The site is built without a warning, and its walk-throughs work."""

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

PAGE = ROOT / "docs/walkthroughs.md"


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    cards = (tmp_path / "zoo/index.html").read_text()
    run = json.loads((ROOT / "zoo/results/cifar10_resnet20_bireal_1w1a/result.json").read_text())
    time, epochs = f"{run['seconds'] / 3600:.1f} hours", f"--epochs={run['final']['epoch']}"
    for text in ("imagenet/resnet18_bireal_1w1a", "million 1-bit", time, epochs):
        assert text in cards
    method = (tmp_path / "method/index.html").read_text()
    assert "quantizers.py, line" in method and "libra_pb" in method


@pytest.mark.slow
def test_the_walk_throughs_work(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for i, name in enumerate(("dark", "light")):
            (tmp_path / "MY_IMAGES" / part / name).mkdir(parents=True)
            for k in range(4):
                pixels = rng.integers(120 * i, 120 * i + 100, (40, 50, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "MY_IMAGES" / part / name / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for language, text in re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if language == "bash":
            command = text.strip().replace("python ", f"{sys.executable} ", 1)
            command = command.replace(" train.py", f" {ROOT / 'train.py'}")
            if "export" in command:
                pytest.importorskip("larq_compute_engine")
                (tmp_path / "device").mkdir(exist_ok=True)
            words = [w for word in command.split() for w in sorted(glob.glob(word)) or [word]]
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, (command, done.stderr[-3000:])
        else:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(text, {})
            assert "dark" in printed.getvalue() and "light" in printed.getvalue()
    assert (tmp_path / "device/net.tflite").stat().st_size > 10_000
