"""From nothing to figures of one's own idea, typed in a real terminal; minutes printed.

A fresh virtual environment, the README's first command, its own trainer on photographs
in a folder, a sweep of 3 x 2, a table in LaTeX, a figure, a page; then a notebook.
"""

import re
import shutil
import subprocess
import sys
import textwrap
import time

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow
RECIPE = """
defaults:
  - base
  - override data: null
  - _self_

data:
  root: photographs
  batch_size: 32
  train:
    dataset:
      name: image_folder
      subset: train
      val_size: 0.25
      image_transform:
        - &view
          - {name: random_resized_crop, size: 32, scale: [0.2, 1.0]}
          - {name: horizontal_flip}
          - {name: color_jitter, brightness: 0.4, contrast: 0.4, p: 0.8}
        - *view
  val:
    dataset:
      name: image_folder
      subset: val
      val_size: 0.25
      image_transform: [{name: resize, size: 32}, {name: center_crop, size: 32}]

optim:
  epochs: 3
  scheduler: {warmup_epochs: 1}
log:
  experiment: photographs
  eval: {untrained: false, few_labels: []}
"""
CELLS = """
import stable_ssl
run = stable_ssl.load("{run}", trainer=__import__("my_idea").MyIdea)
import torch
print(run(torch.rand(2, 3, 32, 32)).shape)
from stable_ssl import report
runs, curves = report.load("logs/runs/photographs")
print(len(runs), "runs")
"""


class Terminal:
    """A shell in tmux, in which one types."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        self("new-session", "-d", "-s", "ten", "-x", "100", "-y", "40", "-c", folder)

    def __call__(self, *arguments):
        line = ["tmux", "-L", "stable-ssl-test", *map(str, arguments)]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout

    def type(self, line, minutes=10):
        """Type a line; return how long it took. What it printed is in a file."""
        self.count += 1
        done = self.folder / f"done{self.count}"
        self("send-keys", "-t", "ten", f"{line}; echo $? > {done.name}", "Enter")
        begin = time.monotonic()
        while not done.exists() or not done.read_text().strip():
            shown = self("capture-pane", "-p", "-t", "ten")
            assert time.monotonic() - begin < 60 * minutes, shown
            time.sleep(0.2)
        shown = self("capture-pane", "-p", "-t", "ten")
        assert done.read_text().strip() == "0", shown
        return time.monotonic() - begin


@pytest.fixture
def terminal(tmp_path):
    if shutil.which("tmux") is None:
        pytest.skip("no tmux: apt-get install tmux")
    terminal = Terminal(tmp_path)
    yield terminal
    terminal("kill-server")


def write_photographs(folder):
    """Cut small squares out of two photographs, a class each."""
    for label, photo in zip("ab", load_sample_images().images, strict=True):
        image = Image.fromarray(photo)
        (folder / label).mkdir(parents=True)
        for i in range(96):
            x, y = 5 * i, 3 * i
            image.crop((x, y, x + 64, y + 64)).save(folder / label / f"{i}.jpg")


def test_ten_minutes(terminal, tmp_path, capsys):
    readme = (REPOSITORY / "README.rst").read_text(encoding="utf-8")
    code = r"(   import stable_ssl\n(?:   .*\n|\n)*?.*launch\(MyIdea\)\n)"
    (code,) = re.findall(code, readme)
    (tmp_path / "my_idea.py").write_text(textwrap.dedent(code))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "photographs.yaml").write_text(RECIPE)
    write_photographs(tmp_path / "photographs")
    took = {}
    install = (
        f"{sys.executable} -m venv .venv && .venv/bin/pip -q install -e {REPOSITORY}"
    )
    took["install"] = terminal.type(install, minutes=15)
    terminal.type(". .venv/bin/activate")
    took["main job"] = terminal.type("stable-ssl")
    sweep = "python my_idea.py -cn photographs -m ++optim.lr=0.1,0.3"
    took["3 x 2 sweep"] = terminal.type(f"{sweep} hardware.seed=0,1,2")
    table = "stable-ssl table logs/runs/photographs --rows optim.lr --out table.tex"
    took["table"] = terminal.type(f"{table} --value val/knn_acc1")
    plot = "stable-ssl plot logs/runs/photographs --kind curves --value val/knn_acc1"
    took["figure"] = terminal.type(f"{plot} --by optim.lr")
    took["page"] = terminal.type("stable-ssl report logs/runs")
    assert "tabular" in (tmp_path / "table.tex").read_text()
    assert list(tmp_path.glob("**/*.pdf")) and (tmp_path / "report.html").exists()
    begin = time.monotonic()
    run = next((tmp_path / "logs/runs/photographs").iterdir())
    text = in_a_notebook(CELLS.format(run=run.relative_to(tmp_path)), tmp_path)
    assert "6 runs" in text and "[2, 128]" in text
    took["notebook"] = time.monotonic() - begin
    total = sum(took.values())
    with capsys.disabled():
        said = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items())
        print(f"\n{said}: {total / 60:.1f} minutes")
    assert total < 600 + took["install"]


def in_a_notebook(code, folder):
    """Execute cells in a kernel; return what they print."""
    nbclient = pytest.importorskip("nbclient", reason='pip install -e ".[docs]"')
    nbformat = pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell(code)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    return "".join(output.get("text", "") for output in notebook.cells[0].outputs)
