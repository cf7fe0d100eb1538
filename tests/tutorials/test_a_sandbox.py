"""A sandbox cloned and made one's own: the README of ssl4rs, with the names changed."""

import json

import pytest
import yaml

from stable_ssl.checkpoint import load

pytestmark = pytest.mark.slow
SECRET = "3fc1e5-not-for-logs"


def text_of(folder):
    """Return the text of all files below a folder, checkpoints included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "".join(path.read_bytes().decode("latin1") for path in files)


@pytest.fixture(scope="module")
def clone(clone):
    """Fill in .env, as a copy of its template."""
    template = (clone.folder / ".env.template").read_text()
    for name, place in (("DATA_ROOT", "disk/data"), ("OUTPUT_ROOT", "disk/outputs")):
        lines = [line for line in template.splitlines() if line.startswith(f"{name}=")]
        assert len(lines) == 1
        template = template.replace(lines[0], f"{name}={clone.folder}/{place}")
    clone.write(".env", f"{template}\nMY_API_KEY={SECRET}\n")
    return clone


@pytest.fixture(scope="module")
def trained(clone):
    """Launch the experiment that is there, with two loggers."""
    pytest.importorskip("tensorboard")
    loggers = "'log.api=[csv,tensorboard]'"
    line = f"python runs/train.py experiment=byol_digits optim.epochs=3 {loggers}"
    clone.type(f"{line} +mine.secret='${{oc.env:MY_API_KEY}}'")
    (run,) = clone.runs("byol_digits", "disk/outputs")
    return run


def test_an_unfilled_variable_is_refused_by_name(clone):
    empty = clone.folder / "empty"
    empty.mkdir()
    (empty / ".env").write_text("DATA_ROOT=???\n")
    line = "cd empty && python ../runs/train.py experiment=byol_digits"
    assert "DATA_ROOT=??? is not filled in" in clone.type(line, status=2)


def test_outputs_go_to_the_root_that_is_set(clone, trained):
    assert not (clone.folder / "logs").exists()
    date, time, job = trained.name.split("_")
    assert (len(date), len(time), job) == (8, 6, "0")
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["data"]["root"] == f"{clone.folder}/disk/data"


def test_a_run_folder_has_what_the_tree_shows(trained):
    kept = {path.name for path in (trained / "ckpts").iterdir()}
    assert "last.ckpt" in kept and any(name.startswith("e00") for name in kept)
    assert "${" not in (trained / "config.yaml").read_text()
    assert "test/knn_acc1" in (trained / "console.log").read_text()
    environment = json.loads((trained / "environment.json").read_text())[-1]
    assert "torch" in environment["packages"]
    assert {"git", "host", "argv", "python", "device"} <= set(environment)
    assert list((trained / "csv").glob("*.csv"))
    assert list((trained / "tensorboard").rglob("events.out.tfevents.*"))


def test_a_secret_of_the_file_is_in_no_output(clone, trained):
    assert "mine" in (trained / "config.yaml").read_text()
    assert SECRET not in text_of(clone.folder / "disk" / "outputs")


def test_an_inference_run_takes_the_experiment_and_a_checkpoint(clone, trained):
    load_from = f"log.load_from={trained}/ckpts/last.ckpt log.run=tested"
    said = clone.type(f"python runs/test.py experiment=byol_digits {load_from}")
    assert "test/knn_acc1" in said
    tested = json.loads(
        (trained.with_name("tested") / "metrics.jsonl").read_text().splitlines()[-1]
    )
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert tested["test/knn_acc1"] == last["test/knn_acc1"]


def test_an_experiment_of_ones_own_changes_any_key(clone):
    copied = (clone.folder / "runs/configs/experiment/byol_digits.yaml").read_text()
    changed = copied.replace("experiment: byol_digits", "experiment: some_new")
    changed = changed.replace("epochs: 10", "epochs: 2\n  lr: 0.004")
    assert changed.count("some_new") == 1 and "lr: 0.004" in changed
    new = "some_new_experiment_config"
    clone.write(f"runs/configs/experiment/{new}.yaml", changed + "\nmine: {size: 3}\n")
    clone.type(f"python runs/train.py experiment={new}")
    (run,) = clone.runs("some_new", "disk/outputs")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["optim"]["lr"], config["mine"]) == (0.004, {"size": 3})
    assert load(run / "ckpts" / "last.ckpt")["epoch"] == 2


def test_a_file_of_this_machine_and_one_to_debug(clone):
    clone.write(
        "runs/configs/local/default.yaml",
        """
        # @package _global_
        hardware: {threads: 1}
        log: {tags: [this-machine]}
        """,
    )
    clone.type("python runs/train.py experiment=byol_digits debug=fast log.run=short")
    run = clone.folder / "disk" / "outputs" / "runs" / "debug" / "short"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["log"]["tags"] == ["this-machine"]
    assert load(run / "ckpts" / "last.ckpt")["step"] == 5


@pytest.mark.parametrize("what", ["data", "model"])
def test_profilers(clone, what):
    line = f"python runs/{what}_profiler.py experiment=byol_digits log.run={what}"
    said = clone.type(line)
    run = clone.folder / "disk" / "outputs" / "runs" / "byol_digits" / what
    found = json.loads((run / f"profile_{what}.json").read_text())
    assert found and f"profile_{what}.json" in said


def test_data_and_logs_may_be_links(clone):
    (clone.folder / "elsewhere").mkdir()
    (clone.folder / "logs").symlink_to("elsewhere", target_is_directory=True)
    clone.type("python runs/train.py debug=fast log.folder=logs log.run=linked")
    assert (clone.folder / "elsewhere/runs/debug/linked/ckpts/last.ckpt").is_file()
    assert (clone.folder / "logs").is_symlink()
