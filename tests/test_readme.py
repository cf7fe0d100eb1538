"""The code of README and chapters runs, as it is printed, and their markup is valid."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(set(REPOSITORY.glob("docs/*.rst")) - {REPOSITORY / "docs/index.rst"})
FILES = [REPOSITORY / "README.rst", *CHAPTERS]
TEXT = "\n".join(file.read_text(encoding="utf-8") for file in FILES)


def blocks(language):
    """Return the code blocks of a language, dedented."""
    found = re.findall(rf"\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", TEXT)
    return [textwrap.dedent(block).strip() for block in found]


def commands():
    """Return the lines of all bash blocks."""
    return [line for block in blocks("bash") for line in block.splitlines() if line]


ELSEWHERE = {  # where a command that this file does not run is run
    "-m venv": "by .ci/run, in a fresh virtual environment",
    "--nnodes=2": "on one machine, by tests/test_ranks.py",
    "submitit_slurm": "by tests that need a Slurm",
    "simclr_cifar10_sgd": "it downloads CIFAR-10; tests/test_config.py composes it",
    "logs/runs": "with the runs it reads, by the test of figures and tables",
    "seed=0,1,2": "likewise",
    "--recorded": "with the table it reads, by tests/commands/test_paper.py",
    "sweeper=optuna": "in fewer epochs, by tests/test_search.py",
}
SLOW = "torchrun", "processes=", "paper table.yaml", "my_idea.py -m"
RUN_HERE = [
    pytest.param(c, marks=[pytest.mark.slow] * any(words in c for words in SLOW))
    for c in commands()
    if not any(mark in c for mark in ELSEWHERE)
]


@pytest.fixture
def my_idea(tmp_path):
    (block,) = [b for b in blocks("python") if "class MyIdea" in b]
    (tmp_path / "my_idea.py").write_text(block)
    (table,) = [b for b in blocks("yaml") if "rows:" in b]
    (tmp_path / "table.yaml").write_text(table)
    return tmp_path


@pytest.mark.parametrize("command", RUN_HERE)
def test_a_command_runs(command, my_idea):
    """Run it in one epoch, where it does not say how many."""
    words = shlex.split(command)
    if not any(w in command for w in ("epochs", "fast_dev_run", " -h", "--info")):
        words += ["++optim.epochs=1", "++log.pictures=null"]
    if words[0] == "python":
        words[0] = sys.executable
    elif words[0] == "torchrun":
        words[:1] = [sys.executable, "-m", "torch.distributed.run"]
    elif words[0] == "stable-ssl":
        words[0] = str(Path(sys.executable).with_name("stable-ssl"))
        if not Path(words[0]).exists():
            pytest.skip("the package is not installed beside this Python")
    done = subprocess.run(words, cwd=my_idea, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_from_nothing_to_figures_and_tables_in_ten_minutes(tmp_path):
    (block,) = [b for b in blocks("bash") if "stable-ssl table" in b]
    beside = Path(sys.executable).parent
    path = f"{beside}{os.pathsep}{os.environ['PATH']}"
    start = time.monotonic()
    subprocess.run(
        ["bash", "-ec", block],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        check=True,
    )
    assert time.monotonic() - start < 600
    for file in ("table.tex", "report.html", "figures/curves_val_knn_acc1.pdf"):
        assert (tmp_path / file).stat().st_size > 0
    if shutil.which("pdflatex") is None:
        pytest.skip("all but the LaTeX: there is no pdflatex to compile the table")
    page = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}"
    (tmp_path / "page.tex").write_text(page + r"\end{document}")
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    subprocess.run(latex, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def test_the_python_blocks_run(tmp_path):
    for number, block in enumerate(blocks("python")):
        if "launch(" in block:
            continue  # my_idea.py, run by its commands
        script = tmp_path / f"block{number}.py"
        script.write_text(block)
        done = subprocess.run(
            [sys.executable, script], cwd=tmp_path, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()


def test_the_yaml_blocks_compose(tmp_path):
    from stable_ssl import load_config

    for number, block in enumerate(blocks("yaml")):
        if "defaults:" not in block:  # what a chapter lays over the recipe before it
            block = f"defaults: [block{number - 1}, _self_]\n{block}"
        (tmp_path / f"block{number}.yaml").write_text(block + "\n")
        config = load_config(f"block{number}", folders=[tmp_path])
        assert config.model.name in ("simclr", "dino")


@pytest.mark.parametrize(("place", "table"), [(2, "digits"), (3, "cifar10_small")])
def test_the_figures_of_the_recipes_are_those_of_their_table(place, table):
    text = (REPOSITORY / "docs" / "recipes.rst").read_text()
    ruler = re.search("^=+  .*", text, re.MULTILINE)[0]
    starts = [m.start() for m in re.finditer("=+", ruler)]
    shown = {}
    for line in re.findall(r"^``\w+``  +\w.*", text, re.MULTILINE):
        parts = [line[a:b].strip() for a, b in pairwise([*starts, None])]
        shown[parts[0].strip("`")] = parts[place]
    made = json.loads((REPOSITORY / "benchmarks" / f"{table}.json").read_text())
    for row in made["rows"]:
        (knn,) = [cell for cell in row["cells"] if cell["column"] == "kNN"]
        figure = f"{knn['mean']:.1f} ± {knn['std']:.1f}" if knn["n"] >= 3 else ""
        assert shown.pop(row["recipe"]) == figure, row["recipe"]
    assert not any(shown.values())


def test_files_and_recipes_that_are_named_exist():
    for path in re.findall(r"``((?:[\w-]+/)+[\w.-]+\.\w+)``|image:: (\S+)", TEXT):
        name = "".join(path).removeprefix("../")
        if not name.startswith(("ckpts/", "data/", "logs/")):
            assert (REPOSITORY / name).exists(), name
    for recipe in re.findall(r"^``(\w+)``  +\w", TEXT, re.MULTILINE):
        assert (REPOSITORY / "runs" / "configs" / f"{recipe}.yaml").exists(), recipe


@pytest.mark.parametrize(
    "file", [*FILES, REPOSITORY / "tests/REQUIREMENTS.rst"], ids=lambda file: file.stem
)
def test_the_markup_is_valid(file):
    docutils = pytest.importorskip(
        "docutils.core", reason="docutils is in the dev extra"
    )
    errors = []

    class Collect:
        def write(self, text):
            errors.append(text)

    docutils.publish_doctree(
        file.read_text(encoding="utf-8"),
        source_path=str(file),  # of what it includes
        settings_overrides={"warning_stream": Collect(), "report_level": 2},
    )
    assert errors == []
