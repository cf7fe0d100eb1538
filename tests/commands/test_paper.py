"""`stable-ssl paper`: a table's file, its runs, and what is written of them."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from stable_ssl import load_config
from stable_ssl.commands import main, paper
from stable_ssl.commands.paper import plan
from stable_ssl.loggers import own_code
from stable_ssl.loggers.own_code import digest
from stable_ssl.methods import method_class
from stable_ssl.schema import ConfigError
from stable_ssl.secrets import masked
from stable_ssl.tools import drawing
from stable_ssl.tools.paper_file import read
from stable_ssl.tools.paper_identity import difference
from stable_ssl.tools.paper_results import Planned, Result, minutes, read_folder
from stable_ssl.tools.paper_table import PaperTable
from stable_ssl.tools.runs import Run, read_run
from stable_ssl.tools.seed_statistics import sample, told_apart

PAPERS = Path(__file__).resolve().parents[2] / "papers"
SHORT = ["optim.epochs=1", "optim.scheduler.warmup_epochs=0", "log.eval.few_labels=[]"]
SHORT += ["log.pictures=null"]
STATED = {
    "title": "A trial",
    "seeds": [0, 1],
    "overrides": SHORT,
    "columns": [
        {"value": "test/knn_acc1", "at": "untrained", "title": "untrained"},
        {"value": "test/knn_acc1", "title": "kNN"},
        {"value": "minutes"},
    ],
    "rows": [
        {
            "recipe": "simclr",
            "title": "SimCLR",
            "published": {"kNN": 99.0},
            "source": "a_paper | 2020",
        }
    ],
}


@pytest.fixture
def stated(tmp_path):
    """Return a writer of a table's file; keys replace the usual ones."""

    def write(**keys):
        path = tmp_path / "trial.yaml"
        path.write_text(yaml.safe_dump({**STATED, **keys}))
        return path

    return write


def planned(file, folder, overrides=()):
    """Return the runs of a table's file as the command plans them."""
    return plan(read(file), file.stem, str(folder), overrides)


def make(one, value=0.9, changes=(), launches=({},), status="finished", step=30):
    """Write a folder as that run would leave it, but for changes of its configuration.

    Of each launch there is what differs from one of now.
    """
    one.folder.mkdir(parents=True)
    config = OmegaConf.create(one.full)
    for key, changed in dict(changes).items():
        OmegaConf.update(config, key, changed)
    now = {"time": "2026-11-30T12:00:00+0000", "library": own_code.library()}
    texts = {
        "config.yaml": OmegaConf.to_yaml(config),
        "metrics.jsonl": json.dumps({"step": step, "epoch": 1, "test/knn_acc1": value}),
        "status.json": json.dumps({"status": status}),
        "environment.json": json.dumps([{**now, **launch} for launch in launches]),
    }
    for name, text in texts.items():
        (one.folder / name).write_text(text + "\n")


def run(*words):
    """Run the command; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["paper", *map(str, words)])
    return ended.value.code


# --- the file -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"colums": []}, "colums"),
        ({"rows": ["simclr", "simclr"]}, "two rows are called simclr"),
        ({"rows": []}, "rows is empty"),
        ({"columns": []}, "columns is empty"),
        ({"seeds": [0, 0]}, r"found seeds: \[0, 0\]"),
        ({"rows": [{"recipe": "byol", "seeds": []}]}, r"byol: found seeds: \[\]"),
        ({"columns": [{"value": "test/acc1", "at": "end"}]}, "found at: end"),
        ({"columns": [{"value": "test/acc1", "at": 0}]}, "at: 0; give untrained"),
        (
            {"rows": [{"recipe": "simclr", "published": {"knn": 9.0}}]},
            "no column knn.*k",
        ),
        ({"rows": [{"recipe": "simclr", "published": {"kNN": "9"}}]}, "give a number"),
        ({"rows": [{"recipe": "byol", "published": {"kNN": 0.98}}]}, "in per cent"),
        *(
            ({"rows": [{"recipe": "byol", "published": {"kNN": figure}}]}, words)
            for figure, words in {
                math.nan: "give a number",
                math.inf: "give a number",
                True: "give a number",
                980: "found 980; give it in per cent",
                -3: "found -3; give it in per cent",
            }.items()
        ),
        ({"rows": [{"title": "SimCLR"}]}, "recipe"),
        ({"rows": {"simclr": {"overrides": ["a=b"]}}}, "rows: found {.*; give a list"),
        *(
            ({key: found}, f"{key}: found .*; give")
            for key in ("rows", "columns", "seeds", "overrides", "data")
            for found in ("simclr", 3, [[3]] if key in ("rows", "columns") else True)
        ),
        ({"rows": [{"recipe": "byol", "overrides": "a=b"}]}, "rows, overrides: .*list"),
        ({"rows": [{"recipe": "byol", "seeds": {0: 1}}]}, "rows, seeds: .*list"),
        ({"rows": [{"recipe": "byol", "published": [1]}]}, "rows, published: .*keys"),
        ({"overrides": [["a=b"]]}, r"found the override \['a=b'\]; give KEY=VALUE"),
        ({"data": {"": [], "b": []}}, "a data set has no name"),
        (
            {"data": {"a": []}, "rows": [{"recipe": "byol", "published": {"b": {}}}]},
            "there is no data b",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_words(stated, keys, words):
    with pytest.raises(ConfigError, match=words):
        read(stated(**keys))


def test_what_no_run_takes_is_refused_before_the_first(stated, tmp_path, capsys):
    rows = ["simclr", {"recipe": "byol", "overrides": ["model.temperature=1"]}]
    assert run(stated(rows=rows), "--folder", tmp_path) == 2
    assert "byol: model.temperature" in capsys.readouterr().err
    assert run(stated(), "--rows", "SimCRL", "--folder", tmp_path) == 2
    assert "no row is called SimCRL" in capsys.readouterr().err
    assert run(stated(), "--jobs", "0", "--folder", tmp_path) == 2
    assert run(stated(), f"log.folder={tmp_path}") == 2
    assert "log.folder is the table's own" in capsys.readouterr().err
    own = {"overrides": ["++log.run=a"]}
    for keys, words in (
        ({"overrides": [*SHORT, "hardware.seed=7"]}, "overrides: hardware.seed is the"),
        ({"data": {"a": ["log.folder=b"]}, "rows": ["byol"]}, "a: log.folder is the"),
        ({"rows": [{"recipe": "byol", **own}]}, "byol: log.run is the table's own"),
        ({"seeds": [0, -1]}, "SimCLR: hardware.seed=-1"),
        ({"overrides": [*SHORT, "fast_dev_run=true"]}, "SimCLR: fast_dev_run=true"),
    ):
        assert run(stated(**keys), "--folder", tmp_path) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_runs_are_where_other_runs_are(stated, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUTPUT_ROOT", str(tmp_path / "outputs"))
    assert run(stated(), "--dry-run") == 0
    assert f'log.folder="{tmp_path / "outputs"}"' in capsys.readouterr().out


def test_a_hash_stands_for_what_a_run_does(stated):
    def hashes(*overrides, **keys):
        return [one.config for one in plan(read(stated(**keys)), "t", "l", overrides)]

    first = hashes()
    assert len(set(first)) == 1  # of both seeds
    for place in ("data.root=/elsewhere", "hardware.processes=2", "log.tags=[a]"):
        assert hashes(place) == first
    assert hashes("log.resume=null") == first
    resume = f"log.resume={stated()}"  # begins elsewhere
    for change in ("optim.lr=0.2", "hardware.precision=bfloat16", resume):
        assert set(hashes(change)).isdisjoint(first)
        assert hashes(overrides=[*SHORT, change]) == hashes(change)
    stated_root = hashes(overrides=[*SHORT, "data.root=/images"])
    assert set(stated_root).isdisjoint(first)  # what the file says is what a run does
    assert hashes(rows=[{"recipe": "simclr", "title": "ours"}]) == first


def test_what_is_a_machines_own_is_no_change(stated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def hashes(*overrides):
        file = stated(overrides=[*SHORT, "hardware.timeout=200"])
        return {one.config for one in plan(read(file), "t", "l", overrides)}

    first = hashes()
    assert first == hashes("data.root=/x") == hashes("hardware.timeout=300")
    folder = tmp_path / "configs" / "local"
    folder.mkdir(parents=True)
    machine = "# @package _global_\ndata: {root: /data}\nhardware: {timeout: 300}\n"
    (folder / "default.yaml").write_text(f"{machine}log: {{folder: /scratch}}\n")
    (folder / "other.yaml").write_text(f"{machine}optim: {{lr: 3}}\n")
    assert first == hashes() == hashes("data.root=/y") == hashes("local=null")
    assert first.isdisjoint(hashes("local=other"))  # which changes what a run does
    assert run(stated(), "--dry-run") == 0
    assert 'log.folder="/scratch"' in capsys.readouterr().out
    assert run(stated(), "--dry-run", "local=other") == 0
    assert "/scratch" not in capsys.readouterr().out


def test_rows_and_data_sets_make_the_runs(stated):
    data = {"digits": [], "few digits": ["++data.train.dataset.labels_per_class=20"]}
    runs = plan(read(stated(data=data, rows=["simclr", "byol"])), "t", "logs")
    names = [one.folder.name for one in runs]
    assert len(set(names)) == 8
    assert names[2].startswith("simclr-few_digits-") and names[2].endswith("-s0")
    assert runs[0].folder.parent == Path("logs/runs/t")


def test_a_row_may_have_seeds_of_its_own(stated):
    rows = ["vicreg", {"recipe": "byol", "seeds": [7]}]
    runs = plan(read(stated(rows=rows)), "t", "logs")
    found = [(one.row, one.seed) for one in runs]
    assert found == [("vicreg", 0), ("vicreg", 1), ("byol", 7)]


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(PAPERS.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_tables_of_the_project_can_be_made(file):
    assert plan(read(file), file.stem, "logs")


# --- which configuration a folder is of ---------------------------------------------


@pytest.mark.parametrize("recipe", ["simclr", "distillation", "multitask", "fixmatch"])
def test_a_run_records_what_was_planned_of_it(stated, tmp_path, recipe, monkeypatch):
    own = ["++mine={a: '${stable_ssl:max_iterations}', b: '${mine.a}', c: .nan}"]
    own += ["++mine.d='${hardware.seed}'", "++mine.e='${log.run} in ${data.root}'"]
    own += ["++mine.f=['${half:${hardware.seed}}']"]  # a resolver of the user's
    own += ["++mine.g='${oc.env:SCRATCH,/a}/x'", "++mine.h=['${hardware.seed}', x]"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        OmegaConf.register_new_resolver("half", lambda n: n // 2, replace=True)
    (one,) = planned(stated(rows=[recipe], seeds=[3]), tmp_path, own)
    monkeypatch.setenv("SCRATCH", "/of_this_machine")
    trainer = method_class(recipe)(load_config(recipe, [*SHORT, *own]))
    trainer.config.log.folder = str(tmp_path)
    trainer.setup()
    assert not difference(one.full, masked(trainer.config), whole=True)
    trainer.config.mine.h[1] = "y"
    assert "mine.h.1" in difference(one.full, masked(trainer.config), whole=True)
    trainer.config.optim.lr *= 2
    assert "optim.lr" in difference(one.full, masked(trainer.config), whole=True)
    trainer.cleanup()


@pytest.mark.parametrize(
    ("changes", "library", "differs"),
    [
        ({}, None, ""),
        ({"hardware.seed": 9, "data.root": "/x", "log.tags": ["a"]}, None, ""),
        ({"optim.lr": 3.0}, None, "optim.lr: found 3.0, planned 0.3"),
        ({"log.eval.knn.k": 21}, "0" * 8, "log.eval.knn.k"),  # a default since changed
        ({"log.eval.knn": None}, "0" * 8, "log.eval.knn: found None"),
        ({"data.train.dataset.labels_per_class": 2}, None, "labels_per_class"),
        ({"model.older_key": 1}, "0" * 8, ""),
        ({"log.resume": "other.ckpt"}, None, "log.resume"),
    ],
)
def test_a_folder_of_another_configuration_is_left_out_and_left_alone(
    stated, tmp_path, capsys, changes, library, differs
):
    file = stated(seeds=[0, 1])
    for one, changed in zip(planned(file, tmp_path), ({}, changes), strict=True):
        launch = {"library": library} if library else {}
        make(one, changes=changed, launches=[launch])
    written = (one.folder / "config.yaml").read_text()
    code = run(file, "--folder", tmp_path)
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "paper" / "trial.json").read_text())
    assert found["rows"][0]["cells"][1]["n"] == 2 - bool(differs)
    assert code == bool(differs) and "0 to be made" in said
    assert (one.folder / "config.yaml").read_text() == written
    if differs:
        assert f"{one.folder} is left as it is, other configuration" in said
        assert differs in said and "remove or rename it" in said
        text = (tmp_path / "paper" / "trial.md").read_text()
        assert differs in text.replace("\\", "")
        assert "1 of 2 runs do not count: 1 other configuration" in text


def test_a_folder_that_cannot_be_read_leaves_the_others(stated, tmp_path, capsys):
    file = stated()
    for one in planned(file, tmp_path):
        make(one)
    (one.folder / "config.yaml").write_text("[")
    assert run(file, "--folder", tmp_path) == 1
    assert "is left as it is, unreadable" in capsys.readouterr().out
    found = json.loads((tmp_path / "paper" / "trial.json").read_text())
    assert found["rows"][0]["cells"][1]["n"] == 1


def test_what_was_made_while_the_queue_ran_is_looked_at(
    stated, tmp_path, monkeypatch, capsys
):
    file = stated(seeds=[0, 1, 2])
    runs = planned(file, tmp_path / "logs")
    copies = planned(file, tmp_path / "copies")
    make(copies[0], changes={"optim.lr": 3.0})  # its recipe was edited meanwhile
    make(copies[1])  # by another command
    places = [(str(a.folder), str(b.folder)) for a, b in zip(copies, runs, strict=True)]
    started = tmp_path / "started"
    code = f"open({str(started)!r}, 'a').write('.')\nimport shutil, os\n"
    code += f"for a, b in {places[:2]}: os.path.exists(b) or shutil.copytree(a, b)"
    monkeypatch.setattr(paper, "START", code)
    assert run(file, "--folder", tmp_path / "logs") == 1
    said = capsys.readouterr().out
    assert started.read_text() == ".."  # the first, and the third
    assert "[1/3] SimCLR, seed 0: other configuration (optim.lr" in said
    assert f"{runs[0].folder} is left as it is" in said
    assert "[2/3] SimCLR, seed 1: finished, 0 s" in said
    assert "2 of 3 runs have not come to their end" in said


# --- runs and the table ---------------------------------------------------------------


def test_what_is_missing_is_run_and_the_rest_is_kept(stated, tmp_path, capsys):
    file, out = stated(), tmp_path / "out" / "trial"
    words = [file, "--folder", tmp_path, "--out", out, "--jobs", 2]
    assert run(*words, "--dry-run") == 0
    assert capsys.readouterr().out.count("stable-ssl --config-name=simclr") == 2
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "2 runs, 2 to be made" in said and "kNN, difference" in said
    paths = {p.suffix: p for p in out.parent.iterdir()}
    assert set(paths) == {".md", ".tex", ".json", ".pdf", ".png", ".html"}
    found = json.loads(paths[".json"].read_text())
    untrained, knn, minutes = found["rows"][0]["cells"]
    folders = sorted((tmp_path / "runs" / "trial").iterdir())
    lines = [(f / "metrics.jsonl").read_text().splitlines() for f in folders]
    rows = [[json.loads(line) for line in of_run] for of_run in lines]
    last = [
        [r["test/knn_acc1"] for r in of_run if "test/knn_acc1" in r] for of_run in rows
    ]
    assert untrained["values"] == pytest.approx([100 * values[0] for values in last])
    assert knn["values"] == pytest.approx([100 * values[-1] for values in last])
    assert knn["difference"] == pytest.approx(sum(knn["values"]) / 2 - 99)
    assert 0 < minutes["mean"] < 5 and knn["n"] == 2 and knn["std"] is not None
    (code,) = {one["code"] for one in found["runs"]}
    text = paths[".md"].read_text()
    assert code in text and found["runs"][0]["checkpoint"][:8] in text
    assert r"a_paper \| 2020" in text and "| 99 |" in text
    assert r"\multicolumn{3}{c}{kNN}" in paths[".tex"].read_text()
    kept = {suffix: p.read_bytes() for suffix, p in paths.items() if suffix != ".html"}
    assert run(*words, "--no-runs") == 0
    assert "0 to be made" in capsys.readouterr().out
    assert kept == {suffix: paths[suffix].read_bytes() for suffix in kept}
    shutil.rmtree(tmp_path / "runs")  # as in a clone, which has the tables alone
    assert run(*words, "--dry-run") == 0
    assert "2 runs, 2 to be made" in capsys.readouterr().out
    assert run(*words, "--recorded") == 0
    assert "2 runs, 0 to be made" in capsys.readouterr().out
    assert kept == {suffix: paths[suffix].read_bytes() for suffix in kept}
    for keys in (
        {"seeds": [1, 2]},
        {"seeds": [0], "columns": [*STATED["columns"], {"value": "test/acc1"}]},
        {"seeds": [0], "overrides": [*SHORT, "optim.lr=0.1"]},
    ):
        assert run(stated(**keys), *words[1:], "--recorded", "--dry-run") == 0
        assert " 1 to be made" in capsys.readouterr().out, keys


def test_finished_runs_without_a_value_are_counted(stated, tmp_path, capsys):
    values = ("knn_acc1, last", "knn_acc1, best", "knn_ac1, last", "knn_acc1, 40")
    parts = [(f"test/{value}".split(", "), value) for value in values]
    columns = [{"value": v, "at": at, "title": title} for (v, at), title in parts]
    file = stated(seeds=[0, 1, 2], columns=columns, rows=["simclr", "vicreg"])
    runs = planned(file, tmp_path)
    for one in runs:
        make(one, value=None if one.seed == 0 else 0.9, step=30 + one.seed * 5)
    assert run(file, "--folder", tmp_path) == 0
    sentences = [
        "knn_acc1, last: 2 of 6 finished runs have none.",
        "knn_acc1, best: 6 of 6 finished runs have none.",  # val was not evaluated
        "knn_ac1, last: 6 of 6 finished runs have none; did you mean 'test/knn_acc1'?",
        "knn_acc1, 40: 4 of 6 finished runs have none.",
    ]
    found = (tmp_path / "paper" / "trial.json").read_text()
    tex = (tmp_path / "paper" / "trial.tex").read_text()
    said = " ".join(capsys.readouterr().out.split())
    for sentence in sentences:
        assert all(sentence in text for text in (said, found, tex)), sentence
    cells = json.loads(found)["rows"][0]["cells"]
    counts = [(cell["n"], cell["without"]) for cell in cells]
    assert counts == [(2, 1), (0, 3), (0, 3), (1, 2)]


def test_recorded_runs_need_a_table(stated, tmp_path, capsys):
    words = [stated(), "--folder", tmp_path, "--out", tmp_path / "t", "--recorded"]
    assert run(*words) == 2
    assert "no" in (said := capsys.readouterr().err) and "t.json" in said
    for text in ("[", "{}", '{"runs": [{"run": "a"}]}', '{"runs": 3}', "[1]"):
        (tmp_path / "t.json").write_text(text)
        assert run(*words) == 2
        assert "holds no table" in capsys.readouterr().err


def test_a_table_loses_nothing_that_it_had(stated, tmp_path, capsys):
    out = tmp_path / "t"
    words = ["--folder", tmp_path / "logs", "--out", out]
    columns = [{"value": "test/acc1"}, {"value": "test/knn_acc1"}]
    stated = partial(stated, rows=["simclr"])
    for one in planned(stated(), tmp_path / "logs"):
        make(one, value=0.9 + one.seed / 100)
    assert run(stated(), *words) == 0
    shutil.rmtree(tmp_path / "logs")

    def written(file, *more):
        assert run(file, *words, "--no-runs", *more) == 0
        return json.loads(Path(f"{out}.json").read_text())

    def knn(entries):
        return [one["values"].get("test/knn_acc1, last") for one in entries]

    found = written(stated())  # in a clone, and without --recorded
    assert knn(found["runs"]) == [None, None] and knn(found["earlier"]) == [90, 91]
    found = written(stated(), "--recorded")
    assert knn(found["runs"]) == [90, 91] and found["earlier"] == []
    assert run(stated(columns=columns), *words, "--recorded", "--dry-run") == 0
    assert "2 to be made" in capsys.readouterr().out  # of the column that is new
    found = written(stated(columns=columns), "--recorded")
    assert [cell["n"] for cell in found["rows"][0]["cells"]] == [0, 2]
    found = written(stated(columns=columns[:1]), "--recorded")
    assert knn(found["runs"]) == [90, 91] and found["earlier"] == []
    found = written(stated(rows=["byol"]))
    assert knn(found["earlier"]) == [90, 91]
    found = written(stated(), "--recorded")
    assert knn(found["runs"]) == [90, 91]
    for one in planned(stated(seeds=[0]), tmp_path / "logs"):  # again, and otherwise
        make(one, value=0.5)
    found = written(stated(columns=columns[:1], seeds=[0]))
    assert knn(found["runs"]) == [None] and knn(found["earlier"]) == [90, 91]
    found = written(stated(), "--recorded")
    assert knn(found["runs"]) == [50, 91] and found["earlier"] == []


def test_no_file_of_something_else_is_written_over(stated, tmp_path, capsys):
    (tmp_path / "t.json").write_text('{"a": 1}')
    assert run(stated(), "--folder", tmp_path, "--out", tmp_path / "t") == 2
    assert "holds no table" in capsys.readouterr().err
    assert (tmp_path / "t.json").read_text() == '{"a": 1}'
    assert not (tmp_path / "runs").exists()


def test_recorded_runs_of_other_code_are_named(tmp_path):
    (tmp_path / "mine.py").write_text("a = 1\n")
    known = {"path": str(tmp_path / "mine.py"), "sha256": digest(b"a = 1\n")}
    own = Result("finished", own_code.library(), modules={"mine.py": known})
    assert not own.of_other_code
    (tmp_path / "mine.py").write_text("a = 2\n")
    assert own.of_other_code
    assert Result("finished", "0" * 8).of_other_code


def test_a_table_that_cannot_be_drawn_is_written(stated, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(drawing, "LOOKS", drawing.LOOKS[:1])
    data = {"digits": [], "few": ["++data.train.dataset.labels_per_class=20"]}
    file = stated(data=data, seeds=[0], rows=["simclr"])
    for one in planned(file, tmp_path):
        make(one, launches=[{"library": "0" * 8}])
    assert run(file, "--folder", tmp_path) == 0
    said = capsys.readouterr()
    assert "warning: no figure is drawn: " in said.err
    assert "2 of 2 runs were made by another version" in said.out
    written = {path.suffix for path in (tmp_path / "paper").iterdir()}
    assert written == {".md", ".tex", ".json", ".html"}
    assert "![" not in (tmp_path / "paper" / "trial.md").read_text()


def test_a_difference_has_the_digits_of_its_cell(stated, tmp_path):
    columns = [{"value": "test/loss", "title": "loss"}]
    rows = [{"recipe": "simclr", "published": {"loss": 0.0031}}]
    paper = read(stated(columns=columns, rows=rows, seeds=[0]))
    one = Planned("simclr", "", 0, "c", (), tmp_path, {})
    result = Result("finished", values={"test/loss, last": 0.0026})
    table = PaperTable(paper, {one: result}, "command")
    assert table.text().splitlines()[-1].split()[1:] == [
        "0.002600",
        "0.0031",
        "-0.000500",
    ]
    assert "0.002600 & 0.0031 & -0.000500" in table.latex()


def test_a_run_that_went_on_with_other_code_is_of_both(stated, tmp_path):
    one, other = planned(stated(), tmp_path)
    make(one, launches=[{"own": "aaaa", "library": "0"}, {"own": None, "mode": "fit"}])
    made = read_folder(one, [])
    assert made.own == "aaaa+none" and made.code == f"0+{own_code.library()}"
    assert made.of_other_code
    evaluated = {"library": "b", "mode": "test"}  # whose rows are no figures of the run
    make(other, launches=[{"own": "aaaa"}, {"own": "aaaa"}, evaluated])
    made = read_folder(other, [])
    assert made.own == "aaaa" and made.code == own_code.library()
    assert not made.of_other_code


@pytest.mark.parametrize(
    ("launches", "versions"),
    [
        ([{"library": "00", "own": "1"}], ["00", own_code.library()]),
        ([{}, {"library": "00"}], ["00", own_code.library()]),  # it went on by another
        ([{"own": "2"}], ["own 1", "own 2"]),
        ([{"packages": {"torch": "2.1"}}], ["torch 2.0", "torch 2.1"]),
        ([{}], []),
    ],
)
def test_means_over_several_versions_are_marked(stated, tmp_path, launches, versions):
    file = stated(rows=["simclr", "byol"], columns=STATED["columns"][1:2])
    usual = {"own": "1", "packages": {"torch": "2.0"}}
    other, *others = planned(file, tmp_path)
    make(other, launches=[{**usual, **launch} for launch in launches])
    for one in others:
        make(one, launches=[usual])
    said = "Rows whose runs are of several versions of the code: simclr."
    for words in ([], ["--recorded"]):
        assert run(file, "--folder", tmp_path, *words) == 0
        texts = [tmp_path / "paper" / f"trial.{kind}" for kind in ("md", "tex", "json")]
        assert {said in text.read_text() for text in texts} == {bool(versions)}
        rows = json.loads(texts[-1].read_text())["rows"]
        assert [row["cells"][0]["versions"] for row in rows] == [versions, []]
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)


def test_the_minutes_of_a_run_are_those_in_which_it_ran(tmp_path):
    def launch(second):
        return {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))}

    begin = 1_700_000_000
    launches = [launch(begin), launch(begin + 600), launch(begin + 900)]
    (tmp_path / "environment.json").write_text(json.dumps(launches))
    rows = [{"time": float(begin + s), "step": s} for s in (60, 120, 960, 1020)]
    run = Run(tmp_path, {}, [], "finished", "", rows, {}, None, "")
    assert minutes(run) == pytest.approx(4)  # the second launch came to no row


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "null", '{"a": 1}', "[3]", '[{"time": null}]', '[{"library": 4}]']
    + ['[{"time": "yesterday"}]', '[{"packages": 3, "mode": []}]', None],
)
def test_a_broken_record_of_launches_leaves_the_table(stated, tmp_path, capsys, text):
    file = stated()
    one, other = planned(file, tmp_path)
    make(one), make(other)
    other.folder.joinpath("environment.json").unlink()
    if text is not None:
        other.folder.joinpath("environment.json").write_text(text)
    assert run(file, "--folder", tmp_path) == 0
    said = capsys.readouterr().out
    assert minutes(read_run(other.folder)) is None
    unknown = f"do not say which version of the library made them: {other.folder.name}"
    assert (unknown in said) == (text != '[{"library": 4}]')
    found = json.loads((tmp_path / "paper" / "trial.json").read_text())
    assert found["rows"][0]["cells"][1]["values"] == [90, 90]


def test_runs_that_fail_or_diverge_leave_the_others(stated, tmp_path, capfd):
    rows = [
        {"recipe": "simclr", "title": "wild", "overrides": ["optim.lr=1e30"]},
        {"recipe": "simclr", "title": "bad", "overrides": ["++data.train.shuffle=3"]},
        "vicreg",
    ]
    file = stated(rows=rows, seeds=[0])
    assert run(file, "--folder", tmp_path) == 1
    said = capfd.readouterr()
    assert "wild, seed 0: diverged" in said.out and "vicreg, seed 0: fin" in said.out
    assert "bad, seed 0: not begun" in said.out and "shuffle" in said.err
    assert "1 of 3 runs have not come to their end" in said.out
    text = (tmp_path / "paper" / "trial.md").read_text()
    assert "| wild |" in text and "diverged" in text and "not begun" in text
    assert run(file, "--folder", tmp_path, "--dry-run") == 0
    assert "3 runs, 1 to be made" in capfd.readouterr().out  # divergence is a result


@pytest.mark.slow
def test_killed_it_goes_on_and_ends_as_if_it_had_not_been(stated, tmp_path):
    long = [o.replace("epochs=1", "epochs=6") for o in SHORT]
    file = stated(overrides=[*long, "log.checkpoint.every_n_epochs=1"])
    line = [sys.executable, "-c", "from stable_ssl.commands import main; main()"]

    def start(folder):
        words = ["paper", file, "--folder", tmp_path / folder, "--jobs", "2"]
        return subprocess.Popen([*line, *map(str, words)], start_new_session=True)

    killed = start("killed")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("runs/trial/*/ckpts/last.ckpt")):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert start("killed").wait() == 0 and start("whole").wait() == 0
    tables = [
        json.loads((tmp_path / f"{n}/paper/trial.json").read_text())
        for n in ("killed", "whole")
    ]
    a, b = ([cell["values"] for cell in t["rows"][0]["cells"][:2]] for t in tables)
    assert a == b


@pytest.mark.slow
def test_the_table_of_the_digits_comes_out_within_its_spread(tmp_path):
    """Of three methods; another machine may round otherwise."""
    kept = json.loads((PAPERS.parent / "benchmarks" / "digits.json").read_text())
    words = ["--rows", "simclr", "vicreg", "nnclr", "--folder", tmp_path, "--jobs", 2]
    assert run(PAPERS / "digits.yaml", *words) == 0
    found = json.loads((tmp_path / "paper" / "digits.json").read_text())["rows"]
    before = {row["title"]: row["cells"] for row in kept["rows"]}
    made = [row for row in found if row["cells"][1]["n"]]
    assert len(made) == 3 and len(found) == len(before)  # the table stays whole
    for row in made:
        for now, then in zip(row["cells"], before[row["title"]], strict=True):
            if now["value"].startswith("test/") and "acc" in now["value"]:
                values = sample(now["values"]), sample(then["values"])
                close = abs(now["mean"] - then["mean"]) <= 0.5  # two images of 400
                assert close or not told_apart(*values), (row["title"], now["column"])
