"""A folder of one's own with configs, data and src, worked in by the command alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

STREAM = """
import torch
from torch.utils.data import IterableDataset


class Noise(IterableDataset):
    num_classes = 10

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        for i in range(self.size):
            yield torch.randint(256, (1, 8, 8), dtype=torch.uint8), i % 2
"""
QUICK = """
log: {experiment: mine, pictures: null, eval: {untrained: false, few_labels: []}}
model: {temperature: 0.2, backbone: {width: 4}}
optim: {epochs: 1}
data: {batch_size: 8}
"""


@pytest.fixture
def workspace(tmp_path):
    """Return a runner of `stable-ssl` in a folder with data and code of its own."""
    from PIL import Image

    command = Path(sys.executable).with_name("stable-ssl")
    if not command.exists():
        pytest.skip("the package is not installed beside this Python")
    for folder in ("configs/data", "src"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "src" / "my_stream.py").write_text(STREAM)
    generator = torch.Generator().manual_seed(0)
    for subset, count in (("train", 8), ("val", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / "data" / "pets" / subset / label
            folder.mkdir(parents=True)
            for i in range(count):
                image = Image.new("L", (8, 8))
                image.putdata(torch.randint(256, (64,), generator=generator).tolist())
                image.save(folder / f"{i}.png")

    def run(*arguments):
        line = [command, *arguments]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)

    return run


def write(folder, name, text):
    (folder / "configs" / f"{name}.yaml").write_text(text)


def the_run(folder):
    (run,) = (folder / "logs" / "runs" / "mine").iterdir()
    return run


@pytest.mark.slow
def test_data_root_itself_is_the_dataset_where_none_is_named(workspace, tmp_path):
    """As in sesemi: root is null, and a null subset is all there are."""
    data = """
train:
  dataset:
    name: image_folder
    subset: [train]
    image_transform:
      - [{name: resize, size: 8}]
      - [{name: resize, size: 8}, {name: horizontal_flip}]
val:
  dataset: {name: image_folder, subset: val, image_transform: [{name: resize, size: 8}]}
test:
  dataset: {name: image_folder, image_transform: [{name: resize, size: 8}]}
"""
    write(tmp_path, "data/pets", data)
    custom = "defaults: [simclr, override data: pets, _self_]\n" + QUICK
    write(tmp_path, "custom", custom.replace("data: {", "data: {root: ./data/pets, "))
    done = workspace("-cd", "configs", "-cn", "custom")
    assert done.returncode == 0, done.stderr
    run = the_run(tmp_path)
    splits = (run / "data" / "splits.csv").read_text().splitlines()[1:]
    counts = [
        sum(line.endswith(s) for line in splits) for s in ("train", "val", "test")
    ]
    assert counts == [16, 6, 22]
    assert "num_classes: 2" in (run / "config.yaml").read_text()


@pytest.mark.slow
def test_code_in_src_makes_an_iterable_dataset(workspace, tmp_path):
    data = """
train:
  dataset:
    _target_: my_stream.Noise
    size: 100
    image_transform: [[{name: noise, std: 0.1}], [{name: noise, std: 0.1}]]
val: {dataset: {name: digits, subset: val}}
"""
    write(tmp_path, "data/noise", data)
    write(
        tmp_path, "custom", "defaults: [simclr, override data: noise, _self_]" + QUICK
    )
    line = ["-cd", "configs", "-cn", "custom", "log.eval.knn=null", "log.monitor=null"]
    done = workspace(*line)
    assert done.returncode == 2
    assert "the train data has no length; set optim.steps" in done.stderr
    line += ["optim.epochs=null", "optim.steps=15", "log.experiment=steps"]
    done = workspace(*line, "log.run=run")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "logs" / "runs" / "steps" / "run"
    rows = (run / "metrics.jsonl").read_text()
    assert '"step": 15' in rows and '"step": 16' not in rows


@pytest.mark.slow
def test_the_configuration_is_shown_and_nothing_is_run(workspace, tmp_path):
    write(tmp_path, "custom", "defaults: [simclr, _self_]\nmine:\n  size: ???\n")
    custom = ["-cd", "configs", "-cn", "custom"]
    info = workspace(*custom, "--info")
    assert info.returncode == 0, info.stderr
    for text in ("Config search path", "Defaults List", "size: ???", "custom"):
        assert text in info.stdout
    shown = workspace(*custom, "-h").stdout
    assert "size: ???" in shown and "== Configuration groups ==" in shown
    bare = workspace("-cn", "stable_ssl", "-h").stdout  # the schema alone
    for text in ("epochs: null", "train: null", "lr: 0.1", "num_nodes: 1"):
        assert text in bare
    write(tmp_path, "broken", "defaults: [base, _self_]\ndata: {num_classes: ???}\n")
    done = workspace("-cd", "configs", "-cn", "broken")
    assert done.returncode == 2
    assert "broken.yaml" in done.stderr and "line 2" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = workspace(*custom)
    assert done.returncode == 2
    assert "mine.size has no value" in done.stderr
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
def test_folders_may_be_links_and_need_not_exist(workspace, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "logs").symlink_to(tmp_path / "disk", target_is_directory=True)
    quick = ["debug=fast", "data.root=nowhere/yet", "log.run=run"]
    done = workspace(*quick)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "disk" / "runs" / "debug" / "run" / "metrics.jsonl").exists()
    assert (tmp_path / "logs").is_symlink()
    done = workspace(*quick, "log.folder=a/b/c")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a/b/c/runs/debug/run/metrics.jsonl").exists()


def test_num_classes_is_one_variable_that_others_use(workspace, tmp_path):
    """Set on the command line, it changes all that names it, unlike a YAML anchor."""
    head = "mine: {outputs: '${data.num_classes}', again: '${.outputs}'}\n"
    write(tmp_path, "custom", "defaults: [supervised, _self_]\n" + head)
    line = ["-cd", "configs", "-cn", "custom", "debug=fast", "log.run=run"]
    done = workspace(*line, "data.num_classes=12")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "logs/runs/debug/run/config.yaml").read_text()
    assert text.count(": 12\n") == 3
