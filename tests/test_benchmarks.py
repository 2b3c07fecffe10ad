"""The benchmarks, with one small network and few turns."""

import json
import os
import subprocess
import sys

from irnet_tf.training.config import versions
import pytest
import zoo

from tests.conftest import ROOT

SMALL = "digits/resnet20_bireal_1w1a"


def run(folder, script, *flags):
    """Returns the tables of a benchmark, which it prints and writes."""
    done = subprocess.run(
        [sys.executable, ROOT / f"benchmarks/{script}.py", *flags, f"--output={folder}/made.json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads((folder / "made.json").read_text())
    assert made["versions"] == versions() and made["processor"] in done.stdout
    for name, rows in made["tables"].items():
        assert f"## {name}\n\n| {' | '.join(rows[0])} |" in done.stdout
    return made["tables"]


@pytest.mark.slow
def test_step_time(tmp_path):
    rows = run(tmp_path, "step_time", SMALL, "--batch=8", "--turns=2")["step"]
    assert rows[0]["ratio"] == 1 and min(row["ms per step"] for row in rows) > 0
    assert all(300 < row["peak MB"] < 20_000 for row in rows)


@pytest.mark.slow
def test_input_pipeline(tmp_path):
    flags = ("--turns=1", "--batches=2", "--batch_size=8", "--photos=16")
    rows = run(tmp_path, "input_pipeline", *flags)["input"]
    assert len(rows) == 4 and min(row["images/s"] for row in rows) > 0


@pytest.mark.slow
def test_size_and_latency(tmp_path):
    pytest.importorskip("larq_compute_engine")
    pytest.importorskip("openvino")
    tables = run(tmp_path, "latency", SMALL, "--batches=1", "--threads=1", "--turns=2")
    sizes = {row["file"]: row["bytes"] for row in tables["size"]}
    # The shipped file, up to metadata of the run.
    assert abs(sizes["1-bit weights file"] / zoo.info(SMALL).weights.size - 1) < 0.02
    assert 1e6 < sizes["TensorFlow Lite float"] < 1.2e6  # 271,354 parameters of 4 bytes
    assert sizes["Larq Compute Engine"] < sizes["TensorFlow Lite float"] / 8
    names = {row["file"] for row in tables["latency"]}
    assert {"Larq Compute Engine", "OpenVINO 1-bit, binary", "OpenVINO float"} <= names
    assert all(row["clock median"] > 0 for row in tables["latency"])
