"""The closing table of a run, and the table of a sweep."""

import json
import re

import pytest

from stable_ssl import report


def cells(table):
    """Return the body of a rendered table as lists of cells."""
    body = report.render(table).partition("---\n")[2].partition("\n\n")[0]
    return [re.split(r"  +", line) for line in body.splitlines()]


def test_summary_shows_test_before_and_after_in_words(make_run):
    table = report.summary(make_run())
    assert cells(table) == [
        ["kNN (k=7)", "71.00 %", "96.34 %"],
        ["linear probe (online)", "12.00 %", "95.12 %"],
        ["linear, 2 labels a class", "40.00 %", "80.50 %"],
        ["linear, 10 labels a class", "60.00 %", "-"],
    ]
    title = report.render(table).partition("\n\n")[0]
    assert title == (
        "simclr/a: digits, test split\n"
        "top-1 accuracy on frozen features, epoch 2 (last), seed 0"
    )


def test_an_interrupted_run_shows_val_and_its_epoch(make_run):
    rows = report.read_rows(make_run("whole"))[:4]
    table = report.summary(make_run("cut", rows=rows, status="preempted"))
    assert "val split" in table.title and "epoch 1 of 2" in table.title
    assert cells(table)[0] == ["kNN (k=7)", "70.00 %", "99.00 %"]


def test_an_untrained_run_shows_what_it_has(make_run):
    rows = report.read_rows(make_run("whole"))[:2]
    assert cells(report.summary(make_run("cut", rows=rows)))[0][1:] == ["71.00 %", "-"]


def test_supervised_accuracy_is_no_probe(make_run):
    table = report.summary(make_run(linear=None))
    assert [row[0] for row in cells(table)][1] == "accuracy"
    assert "frozen" not in table.title


def test_evaluating_loaded_weights_is_no_untrained_row(make_run):
    run = make_run(rows=[{"step": 0, "epoch": 0, "time": 0, "test/acc1": 0.5}])
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace('"fit"', '"test"'))
    assert cells(report.summary(run)) == [["linear probe (online)", "-", "50.00 %"]]


@pytest.mark.parametrize(
    ("key", "start"), [("pretrained: true", "pretrained"), ("weights: w.pth", "loaded")]
)
def test_the_weights_before_training_are_called_what_they_are(make_run, key, start):
    run = make_run()
    config = json.loads((run / "config.yaml").read_text())
    config["model"]["backbone"] = dict([key.split(": ")])
    (run / "config.yaml").write_text(json.dumps(config))
    assert start in report.render(report.summary(run))


@pytest.mark.parametrize("rows", [[], [{"step": 1, "epoch": 1, "train/loss": 2.0}]])
def test_a_run_without_evaluations_says_so(make_run, rows):
    assert "no val or test metrics" in report.render(
        report.summary(make_run(rows=rows))
    )


def test_a_foreign_folder_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="is no run folder: it lacks config.yaml"):
        report.summary(tmp_path)


def test_sweep_shows_what_differs(make_run):
    runs = [make_run("a"), make_run("b", lr=0.1, seed=1, status="diverged", rows=[])]
    table = report.overview(runs)
    head = ["run", "status", "epoch", "optim.lr", "val/knn_acc1"]
    assert list(table.columns[:5]) == head
    assert "log.run" not in table.columns and table.columns[-1] == "hardware.seed"
    assert cells(table)[1][:5] == ["b", "diverged", "-", "0.1", "-"]


def test_sweep_names_and_skips_what_is_no_run(make_run, tmp_path):
    with pytest.warns(UserWarning, match="is no run folder"):
        assert len(cells(report.overview([make_run(), tmp_path]))) == 1
    with pytest.warns(UserWarning):
        assert "0 runs" in report.render(report.overview([tmp_path]))


@pytest.mark.parametrize("width", [120, 80, 60])
def test_a_table_keeps_its_width_and_names_what_it_leaves_out(make_run, width):
    long = ["a" * 40, "b" * 40]
    table = report.overview([make_run(n, lr=i, seed=i) for i, n in enumerate(long)])
    text = report.render(table, width)
    assert max(map(len, text.splitlines())) <= width
    for column in table.columns:
        assert column in text.replace("\n", " ")
    assert text.isascii()
