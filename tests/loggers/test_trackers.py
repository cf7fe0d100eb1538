"""CSV, TensorBoard and wandb mirror metrics.jsonl, also of a run that was resumed."""

import csv
import math
import sys
import time
import warnings

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stable_ssl import ConfigError, load_config
from stable_ssl.loggers.jsonl import JsonLines
from stable_ssl.loggers.trackers import Trackers, check_installed
from stable_ssl.secrets import masked

from .conftest import from_csv, from_tensorboard, from_wandb, same, truth

ALL = ["csv", "tensorboard", "wandb"]


class Run:
    """A run's rows: metrics.jsonl and its mirrors."""

    def __init__(self, folder, api=ALL, position=None, config=None):
        self.folder = folder
        self.lines = JsonLines(folder / "metrics.jsonl", position)
        config = config or masked(load_config("base", ["log.run=run"]))
        self.trackers = Trackers(api, folder, config, truth(folder))

    def write(self, step, **values):
        row = {"step": step, "epoch": step / 9, "time": 1.8e9 + step, **values}
        self.lines.write(row)
        self.trackers.write(row)

    def close(self):
        self.trackers.close("finished")
        self.lines.close()


def picture(folder, name, step):
    path = folder / "figures" / f"{name}_e001.png"
    path.parent.mkdir(exist_ok=True)
    info = PngInfo()
    info.add_text("step", str(step))
    Image.new("RGB", (8, 4)).save(path, pnginfo=info)
    return path


def test_three_trackers_hold_the_rows_of_metrics_jsonl(tmp_path, assert_mirrored):
    run = Run(tmp_path)
    run.write(0, **{"val/acc1": 0.1 + 0.2})
    for step in (3, 6, 9):
        run.write(step, **{"train/loss": 1 / step, "train/lr": 1e-30, "n": step})
    run.write(9, **{"val/acc1": 0.5, "val/inf": -math.inf})
    run.close()
    assert_mirrored(tmp_path)
    with open(tmp_path / "csv" / "metrics.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header[:4] == ["step", "epoch", "time", "val/acc1"]
    assert {len(line) for line in lines} == {len(header)}


def test_rows_after_the_checkpoint_are_written_once(tmp_path, assert_mirrored):
    """The checkpoint of step 6 holds the train row of its step, not the val row."""
    run = Run(tmp_path)
    run.write(3, loss=0.3)
    run.write(6, loss=0.6)
    kept = run.lines.position
    run.write(6, **{"val/acc1": 0.5})
    run.write(9, loss=0.9)
    run.close()
    time.sleep(1 - time.time() % 1)  # wandb names a launch by the second
    again = Run(tmp_path, position=kept)
    again.write(6, **{"val/acc1": 0.25})
    again.write(9, loss=0.95)
    again.write(12, loss=1.2)
    again.close()
    assert [row["step"] for row in truth(tmp_path)] == [3, 6, 6, 9, 12]
    assert_mirrored(tmp_path, folders=2)


def test_a_tracker_that_joins_late_gets_the_rows_before(tmp_path, assert_mirrored):
    run = Run(tmp_path, ["csv"])
    run.write(3, loss=0.3)
    run.close()
    late = Run(tmp_path)
    late.write(6, loss=0.6)
    late.close()
    assert_mirrored(tmp_path)


def test_pictures_of_the_checkpoints_step_stay(tmp_path):
    run = Run(tmp_path, ["tensorboard", "wandb"])
    run.write(9, loss=0.3)
    run.trackers.picture("views", picture(tmp_path, "views", 9), 9)
    run.write(12, loss=0.3)
    run.trackers.picture("features", picture(tmp_path, "features", 12), 12)
    run.close()
    first = len((tmp_path / "metrics.jsonl").read_text().splitlines()[0]) + 1
    time.sleep(1 - time.time() % 1)  # wandb names a launch by the second
    Run(tmp_path, ["tensorboard", "wandb"], position=first).close()
    assert from_tensorboard(tmp_path)[1] == {"views": 1, "features": 0}
    media = "files/media/images/figures/*.png"
    counts = [len([*p.glob(media)]) for p in sorted(tmp_path.glob("wandb/offline-*"))]
    assert counts == [2, 1]


class Online:
    """A run of a server that has its first rows already."""

    starting_step = 2

    def __init__(self, **kwargs):
        self.id, self.sent = kwargs["id"], []

    def log(self, row, step, commit):
        self.sent.append((step, row["loss"]))

    def define_metric(self, *args, **kwargs):
        pass

    def finish(self, exit_code):
        pass


def test_online_wandb_is_sent_what_it_lacks_under_the_same_id(tmp_path, monkeypatch):
    """Four rows, of which the server has two; then one more."""
    runs = []

    def init(**keys):
        runs.append(Online(**keys))
        return runs[-1]

    monkeypatch.setattr("wandb.init", init)
    first = Run(tmp_path, ["wandb"])
    for step in (1, 2, 3, 4):
        first.write(step, loss=step / 10)
    kept = first.lines.position
    first.close()
    again = Run(tmp_path, ["wandb"], position=kept)
    again.write(5, loss=0.5)
    again.close()
    assert runs[0].id == runs[1].id
    assert runs[0].sent == [(2, 0.3), (3, 0.4)]
    assert runs[1].sent == [(2, 0.3), (3, 0.4), (4, 0.5)]


def test_a_value_that_needs_quotes_stays_one_cell(tmp_path):
    run = Run(tmp_path, ["csv"])
    run.write(1, **{'a,"b"': 1.5, "c\nd": 2})
    run.close()
    assert same(from_csv(tmp_path), truth(tmp_path))


def test_the_seed_is_left_alone(tmp_path):
    import random

    import numpy
    import torch

    before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.rand(0)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    run = Run(tmp_path)
    run.write(1, loss=1.0)
    run.close()
    assert random.getstate() == before[0]
    assert numpy.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.rand(3), expected)


def test_wandb_gets_the_masked_config(tmp_path, monkeypatch):
    monkeypatch.setenv("API_KEY", "hush-hush")
    overrides = ["log.run=run", "+mine.url='https://x/${oc.env:API_KEY}'"]
    Run(tmp_path, config=masked(load_config("base", overrides))).close()
    _, _, config = from_wandb(tmp_path, 0)
    assert config["mine"]["url"] == "https://x/***"
    assert config["log"]["run"] == "run"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hush-hush" not in path.read_bytes(), path


# --- failures -------------------------------------------------------------------------


def test_a_missing_package_is_said_before_training(monkeypatch):
    check_installed(ALL)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    for name in [n for n in sys.modules if n.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match="names tensorboard, which is not installed"):
        check_installed(["tensorboard"])


def test_an_unknown_tracker_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        load_config("base", ["log.api=[csv,tensorbord]"])


@pytest.mark.parametrize("name", ALL)
def test_a_broken_folder_is_one_warning(tmp_path, name):
    (tmp_path / name).write_text("a file")
    with pytest.warns(UserWarning, match=f"log.api: {name} failed") as caught:
        run = Run(tmp_path)
        run.write(1, loss=1.0)
        run.close()
    assert len([w for w in caught if "log.api" in str(w.message)]) == 1
    assert len(truth(tmp_path)) == 1


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", ["write", "close"])
def test_a_failure_later_is_one_warning(tmp_path, name, method, monkeypatch):
    def fail(*arguments):
        raise ConnectionError("no route to host")

    run = Run(tmp_path, ["csv", name] if name != "csv" else ["csv", "tensorboard"])
    monkeypatch.setattr(run.trackers.open[name], method, fail)
    with pytest.warns(UserWarning, match="no route to host") as caught:
        for step in (1, 2, 3):
            run.write(step, loss=1.0)
        run.close()
    assert len([w for w in caught if "log.api" in str(w.message)]) == 1
    assert len(truth(tmp_path)) == 3


def test_no_tracker_says_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = Run(tmp_path, [])
        run.write(1, loss=1.0)
        run.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
