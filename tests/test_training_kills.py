"""A run that is killed at any file operation of its own is resumed, and ends the same."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def sweep(tmp_path, which):
    process = subprocess.run(
        [sys.executable, "-m", "tests.kills", str(tmp_path), which],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout)


def test_a_run_killed_at_some_file_operations_ends_the_same(tmp_path):
    found = sweep(tmp_path, "17")
    assert found["operations"] > 50 and found["kills"] >= 3
    assert not found["failures"]


@pytest.mark.slow
def test_a_run_killed_at_any_file_operation_ends_the_same(tmp_path):
    found = sweep(tmp_path, "every")
    assert found["kills"] == found["operations"] > 50
    assert not found["failures"]
