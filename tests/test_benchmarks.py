"""The benchmarks: the README's figures, those of a GPU in toy sizes, and of crashes."""

import json
import re
import sys

import pytest

from benchmarks.drawing import redrawn
from benchmarks.measured import Measured
from tests.conftest import REPOSITORY


def dry(main, shell, folder, *options, timeout=300):
    script = main.parents[1] / "benchmarks" / "gpu.py"
    line = [script, "--dry", "--out", folder, *options]
    done = shell(*line, timeout=timeout, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "gpu.json").read_text())


@pytest.mark.slow
def test_a_part_that_fails_leaves_the_others(main, shell, tmp_path):
    options = ["--parts", "cifar", "augmentation", "--recipe", "no_such_recipe"]
    out, found = dry(main, shell, tmp_path, *options)
    assert found["machine"]["device"] == "CPU"
    assert found["cifar"]["status"] == "exit code 1"
    assert found["augmentation"]["status"] == "in time"
    assert found["augmentation"]["gaussian_blur"]["ours"] > 0
    table = out.rpartition("augmentation: in time")[2]
    assert "SimCLR, ms a view" in table


@pytest.mark.slow
def test_all_parts_end_in_time_with_a_table(main, shell, tmp_path):
    out, found = dry(main, shell, tmp_path, "--minutes", "5", timeout=400)
    for part in ("tests", "augmentation", "training", "cifar"):
        assert found[part]["status"] == "in time", out
    assert found["tests"]["exit code"] == 0
    assert found["training"]["SimCLR ResNet-18 resumes to the bit"] is True
    assert found["training"]["DINO ViT-S/16"]["images/s"] > 0
    assert found["cifar"]["val/knn_acc1"] > 0


def test_figures_are_printed_and_kept(main, shell, tmp_path):
    script, out = main.parents[1] / "benchmarks" / "augment.py", tmp_path / "out.json"
    done = shell(script, "--rounds", 1, "--batches", 2, 2, "--out", out)
    assert done.returncode == 0, done.stderr
    figures = [Measured(**figure) for figure in json.loads(out.read_text())]
    assert [str(figure) for figure in figures] == done.stdout.splitlines()
    assert {"torchvision v1, PIL"} <= {figure.beside for figure in figures}
    assert all(figure.value > 0 and figure.ahead > 0 for figure in figures)


@pytest.mark.slow
def test_data_of_any_size_are_measured(main, shell, tmp_path):
    script, out = main.parents[1] / "benchmarks" / "scale.py", tmp_path / "out.json"
    parts = "--parts", "folder", "shards"  # the others have tests of their own
    done = shell(script, "--small", 1, "--place", tmp_path, "--out", out, *parts)
    assert done.returncode == 0, done.stderr
    figures = [Measured(**figure) for figure in json.loads(out.read_text())]
    assert [str(figure) for figure in figures] == done.stdout.splitlines()
    assert any("warm" in figure.what for figure in figures)
    assert any("tar shards" in figure.what for figure in figures)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.slow
def test_evaluation_at_scale_is_measured_on_one_process_and_two(main, shell, tmp_path):
    script, out = main.parents[1] / "benchmarks" / "scale_evaluation.py", tmp_path / "o"
    done = shell(script, "--small", 1, "--out", out, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    figures = [Measured(**figure) for figure in json.loads(out.read_text())]
    seconds = [figure for figure in figures if figure.unit == "s"]
    assert len(seconds) == 4 and all(figure.value > 0 for figure in seconds)
    assert sum("a rank of 2" in figure.what for figure in figures) == 6


def test_the_readme_shows_what_was_measured(main):
    root = main.parents[1]
    readme = (root / "README.rst").read_text()
    (file,) = (root / "benchmarks" / "results").glob("*_cores.json")
    assert redrawn(readme, json.loads(file.read_text())) == readme


@pytest.fixture
def crash(main, shell, tmp_path):
    """Return a runner of the benchmark of crashes, in one folder: (exit code, text)."""

    def run(kills, minutes=9, seed=0):
        script = main.parents[1] / "benchmarks" / "crash.py"
        line = [script, "--folder", tmp_path, "--kills", kills, "--minutes", minutes]
        done = shell(*line, "--seed", seed, timeout=600, OMP_NUM_THREADS="1")
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_a_killed_run_ends_as_the_one_never_killed(crash):
    code, out = crash(1, seed=4)  # which takes one process, and the fewest seconds
    assert code == 0, out
    assert re.search(r"^  1 \w+, .* killed before \w+ .*: identical", out, re.M)
    assert "1 kills; 1 of 1 runs ended identical" in out


def test_what_differs_at_the_end_is_named(tiny, config, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    from crash import RUN, differing, ending

    ends = []
    for seed in (0, 1):
        folder = f"log.folder={tmp_path}/{seed}/logs", "log.experiment=run"
        options = *folder, f"hardware.seed={seed}", "optim.epochs=1"
        tiny(config("base", *options)).run()
        ends.append(ending(tmp_path / str(seed)))
    found = differing(*ends)
    assert {"metrics.jsonl", "ckpts/last.ckpt", "ckpts/best.ckpt"} <= set(found)
    assert not {"status.json", "config.yaml", "console.log"} & set(found)
    (tmp_path / "1" / RUN / ".config.yaml.7.tmp").touch()
    assert differing(ends[1], ending(tmp_path / "1")) == [".config.yaml.7.tmp"]


OPERATIONS = """
import os, shutil, signal
from pathlib import Path
from file_operations import watch
from stable_ssl.files import write_atomically

folder = Path.cwd() / "folder"
for last in range(9):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "file").write_text("old")
    if not (child := os.fork()):
        count = 0

        def before(name, path):
            global count
            count += 1
            if count == last:
                print(name, Path(path).relative_to(folder).suffix, end=" ", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        watch(folder, before)
        Path("beside").write_text("not counted")
        write_atomically(folder / "file", "new")
        os._exit(0)
    print(os.waitpid(child, 0)[1], (folder / "file").read_text())
    print(*(path.read_text() for path in folder.glob(".*")))
"""


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="pathlib keeps functions of its own to write by"
)
def test_a_process_is_watched_at_each_of_its_file_operations(main, shell):
    """What is written atomically is old or new whenever the process dies."""
    done = shell("-c", OPERATIONS, PYTHONPATH=main.parents[1] / "benchmarks")
    lines = done.stdout.splitlines()
    assert lines[::2] == [
        "0 new",
        "open .tmp 9 old",
        "write .tmp 9 old",
        "write the rest of .tmp 9 old",
        "fsync .tmp 9 old",
        "rename  9 old",
        "remove .tmp 9 new",
        "fsync  9 new",
        "0 new",
    ], done.stderr
    assert lines[1::2] == ["", "", "", "n", "new", "new", "", "", ""]


@pytest.mark.slow
def test_runs_killed_again_and_again(crash):
    """The short version of the benchmark, two processes and workers among it."""
    code, out = crash(4, minutes=0)
    assert code == 0 and "4 kills are left" in out
    code, out = crash(4)
    assert code == 0, out
    code, more = crash(9)  # which goes on from there
    assert code == 0, more
    numbers = [int(n) for n in re.findall(r"^ +(\d+) \w+, processes", out + more, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert "processes=2" in more and "NOT" not in more
