"""`benchmarks/run.py`: every table, in a quick version."""

import json
import os
import subprocess
import sys

from irnet_tf.training.config import versions
import pytest
import zoo

from tests.conftest import ROOT

SCRIPT = ROOT / "benchmarks/run.py"
SMALL = "digits/resnet20_bireal_1w1a"


def run(*flags):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=900,
    )


@pytest.mark.slow
def test_all_tables_are_printed_and_kept(tmp_path):
    pytest.importorskip("larq_compute_engine")
    pytest.importorskip("openvino")
    done = run("--quick", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = tmp_path.glob("*.json")
    kept = json.loads(path.read_text())
    assert kept["quick"] and kept["versions"] == versions() and kept["processor"]
    tables = kept["tables"]
    assert list(tables) == ["step", "memory", "input", "size", "latency"]
    assert tables["step"][0]["ratio"] == 1 and min(r["ms per step"] for r in tables["step"]) > 0
    for row in tables["memory"]:
        assert 50 < row["before the network, MB"] < row["peak, MB"] < 20_000
    sizes = {row["file"]: row["bytes"] for row in tables["size"]}
    # The shipped file, less or more of what its metadata say of the run.
    assert abs(sizes["1-bit weights file"] / zoo.info(SMALL).weights.size - 1) < 0.02
    assert 1e6 < sizes["TensorFlow Lite float"] < 1.2e6  # 271,354 parameters of 4 bytes
    assert sizes["Larq Compute Engine"] < sizes["TensorFlow Lite float"] / 8
    readers = [row["reader"] for row in tables["input"]]
    assert {"irnet_tf, rest on the device", "larq-zoo, without jitter"} <= set(readers)
    names = {row["file"] for row in tables["latency"]}
    assert {"Larq Compute Engine", "OpenVINO 1-bit, binary", "OpenVINO float"} <= names
    assert all(0 < row["clock min"] <= row["clock med."] for row in tables["latency"])
    text = path.with_suffix(".md").read_text()
    for words in (*tables, kept["date"], kept["processor"], "tensorflow 2.19", "| network |"):
        assert words in text and (words in done.stdout or words not in tables)


def test_an_unknown_table_is_answered_with_those_there_are(tmp_path):
    done = run("--tables=steps", f"--out={tmp_path / 'none'}")
    assert done.returncode == 2 and not (tmp_path / "none").exists()
    assert "unknown table steps; known: step, memory, input, size, latency" in done.stderr
