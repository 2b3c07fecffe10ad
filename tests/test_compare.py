"""Comparison of runs."""

import csv
import json
from pathlib import Path
import statistics

from irnet_tf import compare, plotting
from irnet_tf.training.run_dir import COLUMNS
import pytest
import zoo
from zoo.__main__ import main as list_networks

from tests.conftest import ROOT


def write_run(folder, accuracies, *, seed=0, arguments=(), initialized_from=None, **recipe):
    folder = Path(folder)
    folder.mkdir(parents=True)
    identity = {
        "network": "digits/a",
        "arguments": {"depth": 20, **dict(arguments)},
        "recipe": {"epochs": len(accuracies), "learning_rate": 0.1, **recipe},
        "seed": seed,
        "initialized_from": initialized_from,
        "data": {"name": "some images", "classes": ["0", "1"]},
    }
    (folder / "config.json").write_text(json.dumps({"identity": identity}))
    with open(folder / "metrics.csv", "w") as file:
        writer = csv.DictWriter(file, COLUMNS, restval=1)
        writer.writeheader()
        for i, accuracy in enumerate(accuracies):
            values = {"train_accuracy": accuracy, "test_accuracy": accuracy, "test_loss": 0.5}
            writer.writerow({**values, "epoch": i + 1, "train_loss": 1 / (i + 1), "seconds": 30})
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


def test_the_same_seed_twice_is_not_two_samples(tmp_path):
    for name, seed in (("a", 0), ("again", 0), ("other", 1)):
        write_run(tmp_path / name, [0.5], seed=seed)
    groups = compare.report(compare.find_runs([tmp_path]))
    assert [[run.name for run in group.runs] for group in groups] == [["a", "other"], ["again"]]


def test_the_table_begins_with_the_run_and_has_120_columns_and_no_hash(tmp_path, capsys):
    for i in range(3):
        settings = {f"setting_{j}": i * 1000 + j for j in range(20)}
        write_run(tmp_path / f"run{i}", [0.5], initialized_from=f"{i}" * 64, **settings)
    compare.report(compare.find_runs([tmp_path]))
    caption, _, *lines = capsys.readouterr().out.splitlines()
    assert caption == "network: digits/a; data: some images; seeds: 0; epochs: 1"
    assert max(map(len, lines)) <= 120
    assert lines[0].startswith("| run  | changed") and lines[2].startswith("| run0 | setting_0=0")
    assert "0" * 32 not in "".join(lines) and "digits/a" not in "".join(lines)


def test_an_argument_that_only_one_run_has_is_a_change(tmp_path):
    runs = [
        write_run(tmp_path / "plain", [0.5]),
        write_run(tmp_path / "sign", [0.6], arguments={"kernel_quantizer": "ste_sign"}),
    ]
    changed = [group.changed for group in compare.report(runs)]
    assert changed == ["kernel_quantizer=default", "kernel_quantizer=ste_sign"]


def test_csv_and_figure_show_all_groups(tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path / f"r/a{seed}", [0.25, 0.5 + seed / 100], seed=seed)
    write_run(tmp_path / "r/b", [0.3, 0.4], learning_rate=0.5)
    compare.main([str(tmp_path / "r"), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out == (tmp_path / "out/table.md").read_text()
    rows = list(csv.DictReader((tmp_path / "out/table.csv").read_text().splitlines()))
    assert [row["run"] for row in rows] == ["a0, a1", "b"]
    assert rows[0]["last %"] == "50.50 ± 0.71" and rows[0]["network"] == "digits/a"
    text = (tmp_path / "out/curves.svg").read_text()
    # The loss is between 0.5 and 1.
    for words in ("test accuracy, %", "training loss, nats (log scale)", "0.6", "epoch"):
        assert words in text
    assert "learning_rate=0.1 (2 seeds)" in text and "learning_rate=0.5 (1 seed)" in text


def test_a_long_legend_stays_inside_the_figure(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plotting, "save", lambda figure, path: figures.append(figure))
    for i in range(3):
        write_run(tmp_path / f"run{i}", [0.5], **{f"a_long_setting_{j}": i for j in range(12)})
    compare.draw(compare.report(compare.find_runs([tmp_path])), tmp_path / "curves")
    [figure] = figures
    figure.draw_without_rendering()
    [legend] = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0


def test_shipped_runs_reproduce_the_zoos_table(tmp_path, capsys):
    """Of README and `python -m zoo`: shipped weights in float32 or the last epoch, and the best."""
    compare.main([str(ROOT / "zoo/results"), "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert sorted(row["network"] for row in rows) == [
        name for name in zoo.list_models() if zoo.info(name).weights
    ]
    capsys.readouterr()
    list_networks([])
    listed = capsys.readouterr().out
    listed = {line.split()[0]: line for line in listed.splitlines() if line}
    readme = (ROOT / "README.md").read_text().splitlines()
    for row in rows:
        last, best = row["shipped %"] or row["last %"], row["best %"]
        [line] = [line for line in readme if f"| `{row['network']}`" in line]
        assert f"| {last} | {best} |" in line
        assert f"{last} ({best})" in listed[row["network"]]
        # Trained in bfloat16, shipped in float32: a sign near zero may differ, half of 1 % not.
        assert abs(float(row["last %"]) - float(row["shipped %"] or row["last %"])) < 0.5


def test_runs_without_config_are_told_apart_by_their_names(tmp_path):
    for name in ("lr0.1", "lr0.01"):
        write_run(tmp_path / name, [0.5])
        (tmp_path / name / "config.json").write_text('{"mine": 1}')
    (tmp_path / "trial.csv").write_bytes((tmp_path / "lr0.1/metrics.csv").read_bytes())
    groups = compare.report(compare.find_runs([tmp_path, tmp_path / "trial.csv"]))
    assert [group.row()["run"] for group in groups] == ["lr0.01", "lr0.1", "trial.csv"]


def test_a_folder_that_is_no_run_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="contains no run"):
        compare.find_runs([tmp_path])
    folder = write_run(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="no epoch has ended yet"):
        compare.read_run(folder)
    folder = write_run(tmp_path / "damaged", [0.5])
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged config.json"):
        compare.read_run(folder)
