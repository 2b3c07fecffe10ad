"""Runs side by side."""

import csv
import json
from pathlib import Path
import statistics
import xml.etree.ElementTree as ElementTree

from irnet_tf import compare
from PIL import Image
import pytest
import zoo
from zoo.__main__ import main as list_networks

from tests.conftest import ROOT


def write_run(folder, accuracies, *, seed=0, first_epoch=1, network="digits/a", **recipe):
    folder = Path(folder)
    folder.mkdir(parents=True)
    identity = {
        "network": network,
        "arguments": {"depth": 20},
        "recipe": {"epochs": len(accuracies), "learning_rate": 0.1, **recipe},
        "seed": seed,
        "data": {"name": "some images", "classes": ["0", "1"]},
    }
    (folder / "config.json").write_text(json.dumps({"identity": identity}))
    with open(folder / "metrics.csv", "w") as file:
        file.write(
            "epoch,train_loss,train_accuracy,test_loss,test_accuracy,images_per_second,seconds\n"
        )
        for i, accuracy in enumerate(accuracies):
            file.write(f"{i + first_epoch},{1 / (i + 1)},{accuracy},0.5,{accuracy},100,30\n")
    return folder


def test_seeds_are_one_group_with_mean_and_deviation(tmp_path):
    last = [0.5, 0.7, 0.9]
    for seed, accuracy in enumerate(last):
        write_run(tmp_path / f"a{seed}", [0.1, 0.95, accuracy], seed=seed)
    write_run(tmp_path / "b", [0.2, 0.3, 0.4], learning_rate=0.05)
    several, one = compare.report(compare.find_runs([tmp_path]))
    assert [run.seed for run in several.runs] == [0, 1, 2]
    row = several.row()
    assert row["last %"] == f"{70:.2f} ± {100 * statistics.stdev(last):.2f}"
    assert (row["best %"], row["best epoch"]) == ("95.00 ± 0.00", "2")
    assert (one.changed, several.changed) == ("learning_rate=0.05", "learning_rate=0.1")
    assert one.row()["last %"] == "40.00"


@pytest.mark.parametrize("first_epoch", [0, 1])
def test_epochs_of_old_and_new_runs_are_counted_alike(tmp_path, first_epoch):
    write_run(tmp_path / "a", [0.1, 0.9, 0.5], first_epoch=first_epoch)
    run = compare.read_run(tmp_path / "a")
    assert (run.best["epoch"], run.last["epoch"]) == (2, 3)


def test_an_argument_that_only_one_run_has_is_a_change(tmp_path):
    """A field of the recipe that an older run does not know is none."""
    write_run(tmp_path / "old", [0.5])
    new = write_run(tmp_path / "new", [0.6], new_field=1)
    config = json.loads((new / "config.json").read_text())
    config["identity"]["arguments"]["kernel_quantizer"] = "ste_sign"
    (new / "config.json").write_text(json.dumps(config))
    groups = compare.report([tmp_path / "old", new])
    assert [g.changed for g in groups] == ["kernel_quantizer=default", "kernel_quantizer=ste_sign"]


def test_the_tables_say_the_same(tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path / f"runs/{seed}", [0.25, 0.5 + seed / 100], seed=seed)
    compare.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    markdown = (tmp_path / "out/table.md").read_text()
    assert capsys.readouterr().out == markdown
    header, _, line = (
        [cell.strip() for cell in text.strip("|\n").split(" | ")] for text in markdown.splitlines()
    )
    cells = dict(zip([h.strip("| ") for h in header], [c.strip("| ") for c in line]))
    [row] = csv.DictReader((tmp_path / "out/table.csv").read_text().splitlines())
    assert cells["last %"] == f"{row['last %']} ± {row['last % deviation']}" == "50.50 ± 0.71"
    assert cells["network"] == row["network"] == "digits/a"
    runs = list(csv.DictReader((tmp_path / "out/runs.csv").read_text().splitlines()))
    assert [(r["seeds"], r["last %"]) for r in runs] == [("0", "50.00"), ("1", "51.00")]


def test_the_picture_shows_every_group_and_its_axes(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"r/a{seed}", [0.1, 0.2 + seed / 10], seed=seed)
    write_run(tmp_path / "r/b", [0.3, 0.4], learning_rate=0.5)
    compare.report(compare.find_runs([tmp_path / "r"]), tmp_path)
    text = "".join(ElementTree.parse(tmp_path / "curves.svg").getroot().itertext())
    for words in (
        "test accuracy, %",
        "training loss, nats (log scale)",
        "0.6",  # of a loss between 0.5 and 1, which has no 1, 2 or 5 within
        "epoch",
        "2 seeds",
        "learning_rate=0.5",
    ):
        assert words in text
    assert Image.open(tmp_path / "curves.png").size[0] > 1000


def test_shipped_runs_reproduce_the_zoos_table(tmp_path, capsys):
    """README's and that of `python -m zoo`: shipped weights in float32, or the last epoch, and
    the best."""
    compare.main([str(ROOT / "zoo/results"), "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert sorted(row["network"] for row in rows) == [
        name for name in zoo.list_models() if zoo.info(name).weights
    ]
    capsys.readouterr()
    list_networks([])
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    readme = (ROOT / "README.md").read_text().splitlines()
    for row in rows:
        ours = f"{row['shipped %'] or row['last %']} ({row['best %']})"
        [line] = [line for line in readme if f"| `{row['network']}`" in line]
        assert f"| {ours} |" in line
        assert ours in listed[row["network"]]
        # Trained in bfloat16, shipped in float32: a sign near zero may differ, half of 1 % not.
        assert abs(float(row["last %"]) - float(row["shipped %"] or row["last %"])) < 0.5


def test_a_csv_by_itself_is_a_run(tmp_path):
    write_run(tmp_path / "a", [0.5])
    alone = tmp_path / "trial.csv"
    alone.write_bytes((tmp_path / "a/metrics.csv").read_bytes())
    groups = compare.report(compare.find_runs([tmp_path / "a", alone]))
    assert [group.row()["changed"] for group in groups] == ["-", "trial"]


def test_folders_that_fit_left_are_told_apart(tmp_path):
    for name in ("lr0.1", "lr0.01"):
        write_run(tmp_path / name, [0.5])
        (tmp_path / name / "config.json").write_text('{"mine": 1}')
    (tmp_path / "lr0.01/config.json").unlink()
    groups = compare.report(compare.find_runs([tmp_path]))
    assert {group.row()["changed"] for group in groups} == {"lr0.1", "lr0.01"}
    assert compare.read_run(tmp_path / "lr0.1/metrics.csv").name == "lr0.1"
    (tmp_path / "lr0.1/config.json").write_text("{")
    with pytest.raises(ValueError, match="lr0.1/config.json: .* config.json of a run"):
        compare.read_run(tmp_path / "lr0.1")


def test_what_is_no_run_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is no run folder and holds none"):
        compare.find_runs([tmp_path / "empty"])
    (tmp_path / "empty/metrics.csv").write_text("epoch,test_accuracy\n")
    with pytest.raises(ValueError, match="no epoch has ended yet"):
        compare.read_run(tmp_path / "empty")
    (tmp_path / "empty/metrics.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(ValueError, match="lacks the column"):
        compare.read_run(tmp_path / "empty")
