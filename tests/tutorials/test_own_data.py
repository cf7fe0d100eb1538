"""Data of one's own: the four tutorials are short, exact, and give figures."""

import signal
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy
import pytest
from PIL import Image

from stable_ssl import SimCLR, load_config
from stable_ssl.checkpoint import equal, load

TUTORIALS = Path(__file__).resolve().parents[2] / "runs" / "tutorials"
SHORT = ["optim.epochs=2", "data.batch_size=32", "log.pictures=null", "hardware.seed=1"]
SHORT += ["optim.scheduler.warmup_epochs=0", "log.every_n_steps=1", "log.run=run"]
SHORT += ["log.checkpoint.every_n_steps=1", "log.experiment=own"]
NAMES = ("tiles", "series", "volume", "parquet")


def write_tiles(root, chance):
    """Write 12 bands of 16 bits, brighter in one half of them for each class."""
    tifffile = pytest.importorskip("tifffile")
    for label, name in enumerate(("field", "forest")):
        (root / name).mkdir(parents=True)
        for i in range(64):
            bands = chance.integers(0, 20000, (12, 32, 32))
            bands[6 * label : 6 * label + 6] += 40000
            tifffile.imwrite(root / name / f"{i}.tif", bands.astype("uint16"))


def write_arrays(root, chance, shape):
    """Write noise around a mean of the class, in train and val."""
    root.mkdir()
    for split in ("train", "val"):
        y = numpy.arange(96) % 2
        x = chance.normal(size=(96, *shape)) + 3 * y.reshape(-1, *[1] * len(shape))
        numpy.save(root / f"{split}_x.npy", x.astype("float32"))
        numpy.save(root / f"{split}_y.npy", y)


def write_parquet(root, chance):
    """Write two digits' images as PNG with names of their classes."""
    datasets = pytest.importorskip("datasets")
    root.mkdir()
    features = {
        "picture": datasets.Image(),
        "digit": datasets.ClassLabel(2, ["a", "b"]),
    }
    for split in ("train", "val"):
        labels = [i % 2 for i in range(96)]
        pixels = [chance.integers(0, 100, (8, 8)) + 150 * y for y in labels]
        images = [Image.fromarray(p.astype("uint8")) for p in pixels]
        columns = {"picture": images, "digit": labels}
        table = datasets.Dataset.from_dict(columns, datasets.Features(features))
        table.to_parquet(root / f"{split}.parquet")


WRITERS = {
    "tiles": write_tiles,
    "series": lambda root, chance: write_arrays(root, chance, (2, 128)),
    "volume": lambda root, chance: write_arrays(root, chance, (1, 8, 8, 8)),
    "parquet": write_parquet,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a maker of a tutorial's data."""

    def make(name):
        root = tmp_path_factory.getbasetemp() / f"own_{name}"
        if not root.exists():
            WRITERS[name](root, numpy.random.default_rng(0))
        return root

    return make


def trainer_of(name):
    """Return the class that a tutorial trains; its ops are registered then."""
    if name == "parquet":
        return SimCLR
    spec = spec_from_file_location(f"tutorial_{name}", TUTORIALS / f"{name}.py")
    spec.loader.exec_module(module := module_from_spec(spec))
    classes = {"series": "SimSeries", "volume": "SimVolume"}
    return getattr(module, classes.get(name, "SimCLR"))


@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_is_short(name):
    files = [TUTORIALS / f"{name}.py", TUTORIALS / "configs" / f"{name}.yaml"]
    lines = [file.read_text().splitlines() for file in files if file.exists()]
    assert all(sum(map(bool, file)) <= 40 for file in lines)


@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_is_exact_and_gives_figures(name, data, rows, tmp_path):
    """Interrupted and gone on, by other workers, it has the rows of the whole run."""
    trainer, last = trainer_of(name), {}

    class Interrupted(trainer):
        def after_train_step(self):
            super().after_train_step()
            if self.step == 4:
                raise KeyboardInterrupt

    def run(cls, folder, workers):
        keys = [f"data.root={data(name)}", f"data.num_workers={workers}", *SHORT]
        file = TUTORIALS / "configs" / f"{name}.yaml"
        made = cls(load_config(file, [*keys, f"log.folder={tmp_path / folder}"]))
        made.run()
        return rows(made.run_dir)

    whole = run(trainer, "whole", 0)
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted, "parts", 0)
    assert run(trainer, "parts", 2) == whole
    for row in whole:
        last |= row
    assert last["step"] > 4 and last["val/knn_acc1"] == 1 and "val/acc1" in last


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_that_is_killed_ends_as_the_one_never_killed(
    name, data, rows, tmp_path
):
    script = TUTORIALS / f"{name}.py"
    config = ["-cn", TUTORIALS / "configs" / "parquet.yaml"]
    line = [script] if script.exists() else [TUTORIALS.parent / "main.py", *config]
    line = [sys.executable, *map(str, line), f"data.root={data(name)}", *SHORT]
    states = []
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()  # the working folder: its path is in no run
        run = tmp_path / folder / "logs" / "runs" / "own" / "run"
        if folder == "killed":
            process = subprocess.Popen(line, cwd=tmp_path / folder)
            while not (run / "ckpts" / "last.ckpt").exists():
                assert process.poll() is None
            process.kill()
            assert process.wait() == -signal.SIGKILL
        subprocess.run(line, cwd=tmp_path / folder, check=True)
        state = load(run / "ckpts" / "last.ckpt")
        del state["metrics"], state["rows"]  # with wall-clock fields, as in the rows
        states.append((state, rows(run)))
    assert equal(*states)
