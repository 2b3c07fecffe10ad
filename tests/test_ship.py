"""What a finished run leaves in the package."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import zoo
from zoo import ship as module
from zoo.loading import find_model_config

from tests.conftest import ROOT

NAME = "digits_resnet20_bireal_1w1a"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The run of the shipped digits network, and empty folders to ship it to."""
    run = tmp_path / "run"
    shutil.copytree(ROOT / "zoo/results" / NAME, run)
    shutil.copyfile(ROOT / f"zoo/weights/{NAME}.safetensors", run / "final.safetensors")
    for folder in ("PACKAGE_FOLDER", "RESULTS"):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(module, folder, tmp_path / folder)
    return run


def test_a_run_is_shipped_with_the_accuracy_that_loading_it_gives(run, tmp_path):
    path = module.ship(run)
    assert path == tmp_path / "PACKAGE_FOLDER" / f"{NAME}.safetensors"
    content = path.read_bytes()
    # 356 of 360 are right, as README says of this network.
    assert find_model_config(path).results["accuracy"] == pytest.approx(356 / 360)
    assert find_model_config(path).recipe["epochs"] == 40
    result = json.loads((tmp_path / "RESULTS" / NAME / "result.json").read_text())
    assert result["shipped"]["accuracy"] == pytest.approx(356 / 360)
    sha256 = hashlib.sha256(content).hexdigest()
    assert result["weights"] == {"sha256": sha256, "size": len(content)}
    for kept in ("config.json", "metrics.csv", "curves.png"):
        copied = (tmp_path / "RESULTS" / NAME / kept).read_bytes()
        assert copied == (run / kept).read_bytes()
    images = tf.random.stateless_normal([4, 32, 32, 3], [0, 0])
    expected = zoo.load("digits/resnet20_bireal_1w1a")(images)
    np.testing.assert_array_equal(zoo.load(path)(images), expected)


def test_other_data_and_unfinished_runs_are_rejected(run):
    config = json.loads((run / "config.json").read_text())
    config["identity"]["data"]["name"] = "CIFAR-10"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trained on CIFAR-10, not on digits"):
        module.ship(run)
    (run / "result.json").unlink()
    with pytest.raises(ValueError, match="not the folder of a finished run"):
        module.ship(run)
