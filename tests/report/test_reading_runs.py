"""Runs are read whole, and what is no run is named and skipped."""

import json
import math
import warnings

import pytest

from stable_ssl import report
from stable_ssl.loggers.jsonl import FORMAT
from stable_ssl.tools.runs import read_run, read_runs


def test_a_half_written_last_line_is_ignored_in_silence(make_run):
    run = make_run()
    whole = report.read_rows(run)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "val/acc')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert report.read_rows(run) == whole
    assert len(whole) == 7


def test_a_bad_line_before_the_last_is_named(make_run):
    run = make_run()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], "garbage", lines[2]]))
    with pytest.warns(UserWarning, match="line 2 of .*metrics.jsonl"):
        assert [row["step"] for row in report.read_rows(run)] == [0, 10]


def test_null_is_read_as_not_a_number(make_run):
    run = make_run(rows=[{"step": 1, "epoch": 1, "time": 0, "train/loss": None}])
    assert math.isnan(report.read_rows(run)[0]["train/loss"])


def test_rows_of_no_run_say_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a run folder"):
        report.read_rows(tmp_path)


def test_frames_hold_keys_statuses_and_the_last_values(make_run, tmp_path):
    make_run("a")
    make_run("b", lr=0.1, seed=1, status="preempted")
    runs, curves = report.load(tmp_path)
    assert list(runs["run"]) == ["a", "b"]
    assert list(runs["status"]) == ["finished", "preempted"]
    assert list(runs["optim.lr"]) == [0.3, 0.1]
    assert list(runs["val/knn_acc1"]) == [0.97, 0.97]  # the last, not the best
    assert len(curves) == 14
    assert set(curves["run"]) == {"a", "b"}
    b = curves[curves["run"] == "b"].dropna(subset="val/acc1")
    assert list(b["epoch"]) == [0, 1, 2]


def test_untrained_values_are_no_results(make_run):
    start = {"step": 0, "epoch": 0, "time": 1, "test/acc1": 0.1}
    interrupted = make_run(rows=[start, {"step": 5, "epoch": 0.5, "time": 2}])
    runs, curves = report.load(interrupted)
    assert "test/acc1" not in runs
    assert list(curves["test/acc1"].dropna()) == [0.1]


def test_a_run_named_twice_is_read_once(make_run, tmp_path):
    run = make_run()
    assert len(report.load(run, tmp_path, run)[0]) == 1


def test_names_tell_runs_of_two_experiments_apart(make_run, tmp_path):
    (make_run("a")).rename(tmp_path / "runs" / "moved")
    (tmp_path / "runs" / "byol").mkdir()
    (tmp_path / "runs" / "moved").rename(tmp_path / "runs" / "byol" / "a")
    make_run("b").rename(tmp_path / "runs" / "simclr" / "a")
    assert list(report.load(tmp_path)[0]["run"]) == ["byol/a", "simclr/a"]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda run: (run / "config.yaml").unlink(), "lacks config.yaml"),
        (lambda run: (run / "metrics.jsonl").unlink(), "lacks metrics.jsonl"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "no rows"),
        (lambda run: (run / "metrics.jsonl").write_text('{"ste'), "no rows"),
        (lambda run: (run / "config.yaml").write_text("a: [1"), "not YAML"),
        (lambda run: (run / "config.yaml").write_text(""), "holds no keys"),
        (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe"), "not YAML"),
        (lambda run: [f.unlink() for f in run.iterdir()], "no config.yaml and"),
    ],
)
def test_a_folder_that_is_no_whole_run_is_named_and_skipped(
    make_run, tmp_path, spoil, named
):
    make_run("good")
    spoil(make_run("bad"))
    with pytest.warns(UserWarning, match=named) as caught:
        runs, curves = report.load(tmp_path)
    assert ["bad" in str(warning.message) for warning in caught] == [True]
    assert set(runs["run"]) == set(curves["run"]) == {"good"}


def test_a_root_without_runs_is_named(tmp_path):
    with pytest.warns(UserWarning, match=f"{tmp_path}"):
        runs, curves = report.load(tmp_path)
    assert runs.empty and curves.empty
    with pytest.warns(UserWarning, match="absent: No such file"):
        report.load(tmp_path / "absent")


def test_a_broken_status_is_unknown(make_run):
    run = make_run()
    (run / "status.json").write_text(json.dumps({"status": "finished"})[:9])
    assert list(report.load(run)[0]["status"]) == ["unknown"]


def test_rows_of_a_later_format_are_refused_in_words(make_run, tmp_path):
    old, new = make_run("old"), make_run("new")
    status = {"status": "finished", "reason": "", "format": FORMAT + 1}
    (new / "status.json").write_text(json.dumps(status))
    with pytest.raises(ValueError, match="reads up to 1; install a newer stable-SSL"):
        read_run(new)
    with pytest.warns(UserWarning, match=f"skipped: {new} has rows of format 2"):
        assert [run.folder for run in read_runs(tmp_path)] == [old]


def test_values_are_the_last_those_of_a_step_or_of_the_best(make_study, tmp_path):
    make_study("a", [0.6, 0.9, 0.8])
    make_study("b", [0.7])

    def found(at):
        return list(report.load(tmp_path / "study", at=at)[0]["val/knn_acc1"])

    assert found("last") == [0.8, 0.7]
    assert found("best") == [0.9, 0.7]
    assert found(20)[0] == found(29)[0] == 0.9  # the last up to the step
    assert math.isnan(found(20)[1])  # the run did not come so far


def test_the_best_step_is_where_the_monitor_is_best_by_its_mode(make_study, tmp_path):
    make_study("low", [0.6, 0.9, 0.8], log__monitor_mode="min")
    make_study("loss", [0.6, 0.9, 0.8], log__monitor="train/loss")
    make_study("none", [0.6, 0.9, 0.8], log__monitor=None, log__monitor_mode="max")
    runs, _ = report.load(tmp_path / "study", at="best")
    runs = runs.set_index("run")
    assert runs.loc["low", ["step", "val/knn_acc1"]].tolist() == [10, 0.6]
    assert runs.loc["loss", ["step", "val/knn_acc1"]].tolist() == [20, 0.9]
    assert math.isnan(runs.loc["none", "val/knn_acc1"])


def test_keys_that_a_run_lacks_leave_whole_numbers_whole(make_study, tmp_path):
    make_study("new", [0.5], optim__steps=30)
    old = make_study("old", [0.5], optim__steps=None)
    text = (old / "config.yaml").read_text()
    (old / "config.yaml").write_text(text.replace("  scale_lr_by: null\n", ""))
    runs, _ = report.load(tmp_path / "study")
    assert [type(v) for v in runs["optim.steps"]] == [int, type(None)]
    assert list(runs["optim.lr"]) == [0.3, 0.3]


def test_many_roots_and_a_multirun_folder_are_one_frame(make_study, tmp_path):
    made = [make_study(f"many/{i}", [0.5]) for i in range(3)] + [make_study("b", [0.5])]
    runs, curves = report.load(made[3], tmp_path / "study" / "many", made[0])
    assert list(runs["run"]) == ["b", "0", "1", "2"]
    assert len(curves) == 4 * 3 and list(curves["run"].unique()) == ["b", "0", "1", "2"]


def test_a_terminal_sees_a_bar_while_many_runs_are_read(
    make_run, tmp_path, monkeypatch
):
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for i in range(50):
        make_run(f"r{i}")
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert len(report.load(tmp_path)[0]) == 50
        assert ("reading runs" in stream.getvalue()) is shown
