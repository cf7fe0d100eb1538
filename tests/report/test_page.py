"""The page of runs as a file: whole, escaped, small, and made of what there is."""

import base64
import io
import json
import math
import random
import re
import subprocess
import sys

import pytest
from PIL import Image

from stable_ssl import commands, report
from stable_ssl.tools import page_images
from stable_ssl.tools.thinning import Curves, thinned


def data_of(path, name="report"):
    """Return a block of JSON of a page."""
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(rf'<script type="application/json" id="{name}">(.*)</', text)
    return json.loads(found)


def image(folder, name, size=(8, 8), noise=False):
    (folder / "figures").mkdir(exist_ok=True)
    picture = Image.new("RGB", size, "red")
    if noise:
        picture = Image.frombytes("L", size, random.Random(0).randbytes(size[0] ** 2))
    picture.save(folder / "figures" / name)


def names_of_pictures(path, run=0):
    found = data_of(path, f"run-{run}")["pictures"]
    return {(picture["name"], picture["epoch"]) for picture in found}


# --- curves ---------------------------------------------------------------------------


def test_thinning_keeps_spikes_ends_and_gaps():
    values = [math.sin(i / 50) for i in range(1000)]
    values[333], values[707] = 9.0, -9.0
    values[500:600] = [math.nan] * 100
    kept = thinned(values, 100)
    assert {0, 333, 707, 999, 500} <= set(kept)
    assert kept == sorted(kept)
    assert len(kept) <= 101
    assert sum(math.isnan(values[i]) for i in kept) == 1


def test_a_short_curve_is_whole():
    assert thinned([3.0, 1.0, 2.0], 3) == [0, 1, 2]


def test_thinned_curves_keep_the_values_of_their_rows():
    rows = [
        {"step": i, "epoch": i / 7, "time": 1e9 + i, "train/loss": i * 1.0, "note": "a"}
        for i in range(1, 1001)
    ]
    rows[499]["val/acc1"] = 0.123456
    rows[500]["val/acc1"] = math.inf
    found = Curves(rows, 50).as_json()
    places, losses = found["of"]["train/loss"]
    assert [found["step"][place] for place in places] == losses
    assert len(losses) <= 50
    places, accuracies = found["of"]["val/acc1"]
    assert [found["step"][place] for place in places] == [500, 501]
    assert accuracies == [0.12346, None]
    assert found["time"][places[0]] == 499.0
    assert set(found["of"]) == {"train/loss", "val/acc1"}


# --- the file -------------------------------------------------------------------------


def test_it_says_what_differs_and_ranks_by_the_monitor(make_run, tmp_path):
    make_run("a", lr=0.3)
    better = [{"step": 5, "epoch": 1, "time": 1, "val/knn_acc1": 0.99}]
    make_run("b", lr=0.1, seed=1, rows=better)
    found = data_of(report.page(tmp_path, out=tmp_path / "new" / "page.html"))
    assert [run["name"] for run in found["runs"]] == ["b", "a"]
    keys = {key["name"]: key for key in found["differing"]}
    assert {name for name, key in keys.items() if not key["named"]} == {
        "optim.lr",
        "hardware.seed",
    }
    assert keys["optim.lr"]["values"] == [0.1, 0.3]
    assert keys["optim.lr"]["short"] == "optim.lr"  # log.eval.linear.lr is another
    assert keys["hardware.seed"]["short"] == "seed"
    assert keys["optim.lr"]["given"] and not keys["hardware.seed"]["given"]
    assert found["same"]["model.name"] == "simclr"
    assert found["runs"][1]["last"]["val/knn_acc1"] == 0.97
    assert found["runs"][1]["best"] == 0.99


def test_it_needs_no_network(make_run, tmp_path):
    make_run()
    text = report.page(tmp_path, out=tmp_path / "page.html").read_text()
    assert set(re.findall(r"\w+://[^\"' )]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert not re.search(r"<(link|iframe|object|embed|base)\b|@import|url\(", text)


def test_what_a_run_says_is_no_markup(make_run, tmp_path):
    evil = "</script><script>document.title='taken'</script><!-- \" ' & \u2028"
    make_run("a", evil=evil)
    folder = make_run("b&<i>")
    status = {"status": "failed", "reason": evil}
    (folder / "status.json").write_text(json.dumps(status))
    path = report.page(tmp_path, out=tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert text.count("<script") == 4  # the report, two runs, the code
    assert "<!--" not in text
    found = data_of(path)
    assert evil in {run["reason"] for run in found["runs"]}
    values = {key["name"]: key["values"] for key in found["differing"]}
    assert evil in values["log.eval.evil"]


def test_numbers_that_json_or_javascript_lack_are_text(make_run, tmp_path):
    rows = [{"step": 3, "epoch": 1, "time": 1, "train/loss": None}]
    folder = make_run(rows=rows, seed=2**60 + 1, limit="far")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace('"far"', ".inf"))
    found = data_of(report.page(tmp_path, out=tmp_path / "page.html"))
    assert found["runs"][0]["last"] == {"train/loss": "nan"}
    assert found["same"]["hardware.seed"] == str(2**60 + 1)
    assert found["same"]["log.eval.limit"] == "inf"


def test_half_written_empty_and_foreign_folders_are_named_and_left_out(
    make_run, tmp_path
):
    make_run("whole")
    (make_run("half") / "metrics.jsonl").unlink()
    (tmp_path / "runs" / "empty").mkdir()
    foreign = tmp_path / "runs" / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("no run")
    with open(make_run("cut") / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "val/acc')
    (make_run("odd") / "environment.json").write_text('[{"argv": nul')
    with pytest.warns(UserWarning) as said:
        path = report.page(tmp_path, out=tmp_path / "page.html")
    found = data_of(path)
    assert {run["name"] for run in found["runs"]} == {"whole", "cut", "odd"}
    assert found["said"] == [str(warning.message) for warning in said]
    for name in ("half", "empty", "foreign"):
        assert sum(f"/{name}" in text for text in found["said"]) == 1


def test_a_run_that_failed_before_its_first_row_shows_its_reason(make_run, tmp_path):
    folder = make_run(rows=[])
    status = {"status": "failed", "reason": "no space left"}
    (folder / "status.json").write_text(json.dumps(status))
    found = data_of(report.page(folder, out=tmp_path / "page.html"))
    assert found["runs"][0]["reason"] == "no space left"
    assert found["metrics"] == []


def test_many_curves_share_a_budget_of_points(make_run, tmp_path, monkeypatch):
    rows = [
        {"step": i, "epoch": i, "time": i, "train/loss": i % 7} for i in range(1, 400)
    ]
    for name in "abc":
        make_run(name, rows=rows)
    monkeypatch.setattr("stable_ssl.tools.page.ALL_POINTS", 450)
    path = report.page(tmp_path, out=tmp_path / "page.html")
    kept = [len(data_of(path, f"run-{i}")["of"]["train/loss"][0]) for i in range(3)]
    assert sum(kept) <= 450
    assert data_of(path)["points"] in range(max(kept), 150 + 1)
    assert data_of(path)["thinned"]


# --- launches -------------------------------------------------------------------------


def test_the_command_of_the_last_launch_can_be_pasted(make_run, tmp_path):
    folder = make_run("it's")
    launch = {
        "time": "2026-11-21T18:00:00+0000",
        "argv": ["/my code/main.py", "++optim.lr=0.3", "-m"],
        "cwd": "/my code",
        "host": "node1",
        "git": {"commit": "0123abc", "diff": "+" * 30_000},
        "packages": {"torch": "2.15.0"},
    }
    (folder / "environment.json").write_text(json.dumps([{"argv": ["x"]}, launch]))
    (make_run("b") / "environment.json").write_text(json.dumps([launch]))
    found = data_of(report.page(tmp_path, out=tmp_path / "page.html"))
    other, run = found["runs"]
    assert run["rerun"] == f"stable-ssl rerun '{tmp_path}/runs/simclr/it'\"'\"'s'"
    last = run["launches"][-1]
    assert last["command"] == "python '/my code/main.py' ++optim.lr=0.3 -m"
    assert last["sweep"]
    machine = found["environments"][last["machine"]]
    assert machine["host"] == "node1"
    assert machine["git"]["diff"].endswith("and 10,000 characters")
    assert found["environments"][last["packages"]] == {"torch": "2.15.0"}
    shared = other["launches"][-1]
    assert all(shared[part] == last[part] for part in ("machine", "packages"))


# --- pictures -------------------------------------------------------------------------


def test_of_each_picture_the_newest_is_shown(make_run, tmp_path):
    folder = make_run()
    for name in ("views_e009", "views_e100", "views_e020", "mine", "learning_curves"):
        image(folder, f"{name}.png")
    path = report.page(folder, out=tmp_path / "page.html")
    assert names_of_pictures(path) == {("views", 100), ("mine", None)}
    kind, _, data = data_of(path, "run-0")["pictures"][0]["source"].partition(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((3, 3))[0] == 255


def test_a_picture_cut_short_is_named(make_run, tmp_path):
    folder = make_run()
    image(folder, "views_e001.png", size=(64, 64), noise=True)
    file = folder / "figures" / "views_e001.png"
    file.write_bytes(file.read_bytes()[:-40])
    image(folder, "features_e001.png")
    path = report.page(folder, out=tmp_path / "page.html")
    assert names_of_pictures(path) == {("features", 1)}
    assert any(
        "views_e001.png is not a whole" in note for note in data_of(path)["notes"]
    )


def test_large_pictures_are_downscaled_and_it_is_said(make_run, tmp_path):
    folder = make_run()
    image(folder, "views_e001.png", size=(1300, 1300), noise=True)
    path = report.page(folder, out=tmp_path / "page.html")
    (picture,) = data_of(path, "run-0")["pictures"]
    kind, _, data = picture["source"].partition(",")
    assert kind == "data:image/jpeg;base64"
    small = Image.open(io.BytesIO(base64.b64decode(data)))
    assert small.size == (page_images.SIDE, page_images.SIDE)
    assert "downscaled" in data_of(path)["notes"][0]


def test_pictures_stop_at_their_budget_and_it_is_said(make_run, tmp_path, monkeypatch):
    for name in "abc":
        image(make_run(name), "views_e001.png", size=(64, 64), noise=True)
    monkeypatch.setattr(page_images, "ALL", 4000)
    path = report.page(tmp_path, out=tmp_path / "page.html")
    assert [len(names_of_pictures(path, run)) for run in range(3)] == [1, 0, 0]
    assert "pictures of 2 runs" in data_of(path)["notes"][0]


# --- the command ----------------------------------------------------------------------


def stable_ssl(*arguments):
    """Run the command; return its exit code."""
    with pytest.raises(SystemExit) as end:
        commands.main(["report", *map(str, arguments)])
    return end.value.code


def test_the_command_says_where_the_page_is(make_run, tmp_path, capsys):
    make_run()
    out = tmp_path / "a page.html"
    assert stable_ssl(tmp_path, "--out", out) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"file://{tmp_path}/a%20page.html  0.")
    assert said.count("\n") == 1


def test_wrong_input_ends_with_one_line(make_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    run = make_run()
    (tmp_path / "file").write_text("")
    out = tmp_path / "page.html"
    for arguments, words in [
        ([tmp_path / "empty"], "empty: no config.yaml"),
        ([tmp_path / "nowhere"], "nowhere: No such file"),
        ([run, "--out", tmp_path], "is a folder; give a file"),
        ([run, "--out", tmp_path / "file" / "page.html"], "give another place"),
    ]:
        arguments = arguments if "--out" in arguments else [*arguments, "--out", out]
        assert stable_ssl(*arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and words in said and said.count("\n") == 1
    assert not out.exists()


def test_it_imports_neither_torch_nor_pandas(make_run, tmp_path):
    make_run()
    code = (
        "import sys; from stable_ssl.report import page;"
        f"page({str(tmp_path)!r}, out={str(tmp_path / 'page.html')!r});"
        "sys.exit(bool({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
