"""Means over seeds by keys, in four formats, with the best and its equals."""

import csv
import io
import re
import shutil
import subprocess
import warnings

import pytest

from stable_ssl import report
from stable_ssl.config import ConfigError
from stable_ssl.tools import run_keys, table_formats

METHODS = {  # three seeds each: the best, its equal, and one that is told from it
    "simclr": (0.971, 0.975, 0.973),
    "barlow_twins": (0.970, 0.976, 0.970),
    "byol": (0.921, 0.925, 0.920),
}


@pytest.fixture
def runs(make_study, tmp_path):
    for method, values in METHODS.items():
        for seed, value in enumerate(values):
            keys = {"model__name": method, "hardware__seed": seed}
            make_study(f"{method}{seed}", [0.999, value + 0.01], **keys)
    return report.load(tmp_path / "study")[0]


def quiet(*args, **kwargs):
    """Make a table that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return report.table(*args, **kwargs)


def test_cells_are_means_and_deviations_of_the_last_values_in_per_cent(runs):
    table = quiet(runs, value="test/knn_acc1")
    assert table.rows == ["model.name"]
    cell = table.cells[("byol",), ("test/knn_acc1",)]
    assert cell.sample.n == 3
    assert cell.sample.mean == pytest.approx(92.2)
    assert table.text(cell) == "92.20 ± 0.26"
    assert "over 3 seeds" in table.caption


def test_means_over_runs_of_other_code_or_packages_are_warned_of(runs):
    with_versions = runs.assign(versions=["a1, torch 2.9"] * 8 + ["b2, torch 2.10"])
    with pytest.warns(UserWarning, match="packages: a1, b2, torch 2.10, torch 2.9"):
        report.table(with_versions, value="test/knn_acc1")
    within = runs.assign(versions=["a1, torch 2.9"] * 8 + ["a1, torch 2.9, b2"])
    with pytest.warns(UserWarning, match="packages: a1, b2$"):  # it went on by another
        report.table(within, value="test/knn_acc1")
    quiet(runs.assign(versions=["a1, torch 2.9"] * 8 + [""]), value="test/knn_acc1")
    assert "versions" not in run_keys.keys(runs)


def test_the_best_and_what_equals_it_are_marked(runs):
    table = quiet(runs, value="test/knn_acc1")
    marks = {side: cell.mark for (side, _), cell in table.cells.items()}
    assert marks == {("simclr",): "best", ("barlow_twins",): "equal", ("byol",): ""}
    assert quiet(runs, value="test/knn_acc1", prefer="low").cells[
        ("byol",), ("test/knn_acc1",)
    ].mark == ("best")


def test_low_losses_are_good_and_a_learning_rate_has_no_best(runs):
    table = quiet(runs, value=["train/loss", "train/lr"])
    marks = {key: cell.mark for key, cell in table.cells.items()}
    assert marks[("simclr",), ("train/loss",)] == "best"
    assert {m for (_, top), m in marks.items() if top == ("train/lr",)} == {""}


def test_the_monitor_mode_says_what_is_good(runs):
    runs["log.monitor_mode"] = "min"
    table = quiet(runs, value="val/knn_acc1")
    assert table.cells[("byol",), ("val/knn_acc1",)].mark == "best"


def test_best_takes_the_values_of_the_monitors_best_step_and_says_so(runs, tmp_path):
    best, _ = report.load(tmp_path / "study", at="best")
    table = quiet(best, value="val/knn_acc1")
    assert table.cells[("byol",), ("val/knn_acc1",)].sample.mean == pytest.approx(99.9)
    assert "at the best step on validation" in table.caption
    assert "validation" not in quiet(runs, value="val/knn_acc1").caption


def test_columns_by_a_key_and_several_metrics(make_study, tmp_path):
    for i, lr in enumerate((0.3, 0.03, 1.0)):
        for seed in (0, 1):
            make_study(f"{i}{seed}", [0.5 + i / 10], optim__lr=lr, hardware__seed=seed)
    runs, _ = report.load(tmp_path / "study")
    table = quiet(runs, ["model.name"], ["optim.lr"], ["val/knn_acc1", "train/loss"])
    lrs = ["0.03", "0.3", "1.0"]  # by size, not by letters
    metrics = ["val/knn_acc1"] * 3 + ["train/loss"] * 3
    assert table.tops == list(zip(metrics, lrs * 2, strict=True))
    assert r"\multicolumn{3}{c}{learning rate}" in table_formats.latex(table)
    assert "val/knn_acc1, optim.lr=0.03" in table_formats.text(table)


def test_runs_that_differ_in_more_than_the_seed_are_named(runs):
    runs.loc[0, "optim.lr"] = 7.0
    with pytest.warns(UserWarning, match="more than the seed: optim.lr; make these"):
        report.table(runs, ["model.name"])
    assert quiet(runs).rows == ["model.name", "optim.lr"]


def test_a_seed_twice_and_an_unfinished_run_are_named(runs):
    runs.loc[1, "hardware.seed"] = runs.loc[0, "hardware.seed"]
    runs.loc[2, "status"] = "diverged"
    runs.loc[3, ["test/knn_acc1", "val/knn_acc1"]] = float("nan")
    with pytest.warns(UserWarning) as caught:
        table = report.table(runs, ["model.name"], value="test/knn_acc1")
    text = "\n".join(str(w.message) for w in caught)
    assert "same seed counts more than once: 0" in text
    assert f"{runs.loc[2, 'run']} (diverged)" in text
    assert f"without a value are left out: {runs.loc[3, 'run']} (finished)" in text
    assert "(n=2)" in str(table) and "over n seeds" in table.caption


def test_a_cell_of_one_run_is_not_said_to_be_tested(runs):
    few = runs.drop(runs.index[1:3])  # one of SimCLR's three
    table = quiet(few, ["model.name"], value="test/knn_acc1")
    text, latex = str(table), table_formats.latex(table)
    assert "a cell of fewer than 3 runs is not tested" in text
    assert "Welch" in latex and "fewer than 3 runs is not tested" in latex
    alone = quiet(runs[::3], ["model.name"], value="test/knn_acc1")
    assert "Welch" not in table_formats.latex(alone) and "one run a cell" in str(alone)


def test_why_there_is_no_metric_is_said(runs, tmp_path):
    empty = runs.drop(columns=[name for name in runs if "/" in name])
    for at, status, words in (
        ("last", "running", "no metric yet; wait for their first row"),
        ("last", "diverged", "no metric that is a number"),
        ("best", "finished", "log.monitor is null, or was never a number"),
        (99, "finished", "no run came to step 99"),
    ):
        empty["status"], empty.attrs["at"] = status, at
        with pytest.raises(ConfigError, match=words):
            report.table(empty)
    with pytest.raises(ValueError, match="at=bset; give last, best or a step"):
        report.load(tmp_path, at="bset")


def test_without_accuracies_the_loss_is_shown(runs):
    lost = runs.drop(columns=[name for name in runs if "acc1" in name])
    assert quiet(lost.assign(**{"train/grad_norm": 1.0})).metrics == ["train/loss"]


def test_wrong_names_are_answered_with_the_nearest_and_what_differs(runs):
    with pytest.raises(ConfigError, match="did you mean 'model.name'.*differ: model"):
        report.table(runs, ["modle.name"])
    with pytest.raises(ConfigError, match="did you mean 'test/knn_acc1'.*there are"):
        report.table(runs, value="test/knn_acc")
    with pytest.raises(ConfigError, match="no run was found; give run folders"):
        report.table(runs[:0])


def test_a_metric_in_its_own_digits(runs):
    cell = quiet(runs, value="train/loss", interval="ci95").cells
    assert report.table(runs, value="train/loss").text(
        cell[("byol",), ("train/loss",)]
    ) == ("0.0680 ± 0.0026")


def test_text_keeps_the_names_that_a_command_takes(runs):
    text = str(quiet(runs, value="test/knn_acc1"))
    assert re.search(r"^model.name +test/knn_acc1$", text, re.M)
    assert re.search(r"^byol +92.20 ± 0.26$", text, re.M)
    assert re.search(r"^simclr +97.30 ± 0.20 \*$", text, re.M)
    assert re.search(r"^barlow_twins +97.20 ± 0.35 =$", text, re.M)
    assert "= what Welch's t-test at 5 % does not tell from it" in text


def test_markdown_has_the_best_and_its_equals_in_bold(runs):
    assert table_formats.markdown(quiet(runs, value="test/knn_acc1")).startswith(
        "| method | test kNN accuracy (%) |\n"
        "| :-- | --: |\n"
        "| Barlow Twins | **97.20 ± 0.35** |\n"
        "| BYOL | 92.20 ± 0.26 |\n"
        "| SimCLR | **97.30 ± 0.20** |\n"
        "\ntest kNN accuracy (%); mean ± standard deviation over 3 seeds. Bold:"
    )


def test_csv_is_read_back_with_full_numbers(runs):
    table = quiet(runs, value="test/knn_acc1")
    rows = {
        r["model.name"]: r
        for r in csv.DictReader(io.StringIO(table_formats.csv(table)))
    }
    assert rows["simclr"]["mark"] == "best" and rows["simclr"]["n"] == "3"
    found = table.cells[("byol",), ("test/knn_acc1",)].sample
    assert float(rows["byol"]["ci95"]) == pytest.approx(found.ci95, rel=1e-5)
    assert rows["byol"]["unit"] == "%"


@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="no pdflatex: apt install texlive-latex-base texlive-latex-recommended",
)
def test_latex_compiles_whatever_the_names(make_study, tmp_path):
    nasty = ("[512, 64]", "*", "a_b%c&d#$e", "x^2~{}\\n", "<50|60>")
    for i in range(len(nasty)):
        for seed in (0, 1):
            make_study(f"{i}{seed}", [0.9 + seed / 50], hardware__seed=seed)
    runs, _ = report.load(tmp_path / "study")
    runs["my_note.a%b"] = [nasty[int(run[0])] for run in runs["run"]]
    runs["note.size"] = 3
    metrics = ["val/knn_acc1", "train/loss"]
    table = quiet(runs, ["my_note.a%b"], ["note.size"], metrics)
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\pagestyle{empty}\n"
        f"\\begin{{document}}{table_formats.latex(table)}\\end{{document}}\n",
        encoding="utf-8",
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout[-2000:]
    assert "Warning" not in out.stdout and "Overfull" not in out.stdout
    if shutil.which("pdftotext"):
        subprocess.run(["pdftotext", "-layout", "t.pdf"], cwd=tmp_path, check=True)
        text = (tmp_path / "t.txt").read_text()
        for shown in ("[512, 64]", "a b%c&d#$e", "91.00 ± 1.41", "0.090 ± 0.014"):
            assert shown in text  # an underscore is drawn as a line


def test_a_run_that_evaluates_is_no_other_seed(make_run):
    trained = make_run("a")
    again = make_run("b")
    text = (again / "config.yaml").read_text().replace('"fit"', '"test"')
    (again / "config.yaml").write_text(text)
    asked = ["model.name"], (), "test/knn_acc1"
    with pytest.warns(UserWarning, match="only evaluate are left out.*: b"):
        both = report.table(report.load(trained, again)[0], *asked)
    alone = report.table(report.load(trained)[0], *asked)
    assert str(both) == str(alone) and "one run a cell" in both.caption
    assert report.table(report.load(again)[0], *asked).lines()
    with pytest.warns(UserWarning, match="only evaluate are left out.*: b"):
        report.compare(report.load(trained, again)[0], "test/knn_acc1", ["model.name"])
