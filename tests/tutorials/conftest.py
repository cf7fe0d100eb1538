"""A newcomer's desk: an empty folder, a shell, small real images.

The tests of a file are the steps of one tutorial, in its order, at one desk.
"""

import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy
import pytest
from PIL import Image
from sklearn.datasets import load_digits

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = Path(sys.executable).parent
CPU = {"OMP_NUM_THREADS": "1"}
MIRROR = """
import os

from torchvision.datasets import CIFAR10, CIFAR100

for dataset in (CIFAR10, CIFAR100):  # small files have checksums of their own
    dataset.train_list = [[name, None] for name, _ in dataset.train_list]
    dataset.test_list = [[name, None] for name, _ in dataset.test_list]
    dataset.meta = {**dataset.meta, "md5": None}
    dataset.tgz_md5 = None
    dataset.url = f"{os.environ['MIRROR']}/{dataset.filename}"
"""


class Desk:
    """A folder, and what one does in it."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, name, text):
        """Write a file, dedented."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
        return path

    def type(self, line, status=0, timeout=300, **environment):
        """Type a line into a shell; return all that it prints."""
        path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", line],
            cwd=self.folder,
            env={**os.environ, **CPU, "PATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == status, done.stdout
        return re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", done.stdout)

    def runs(self, experiment, root="logs"):
        """Return the folders of an experiment's runs, the oldest first."""
        return sorted((self.folder / root / "runs" / experiment).iterdir())

    def digits(self, root, per_class=20, size=32, classes=10):
        """Write scikit-learn's digits as root/<class>/<number>.png, in grey."""
        raw = load_digits()
        for label in range(classes):
            folder = self.folder / root / f"digit_{label}"
            folder.mkdir(parents=True)
            for number, i in enumerate((raw.target == label).nonzero()[0][:per_class]):
                image = Image.fromarray((raw.images[i] * 15.9).astype("uint8"))
                image.resize((size, size)).save(folder / f"{number:03d}.png")


def _cifar(folder, name, batches, meta, labels, classes):
    """Write an archive in CIFAR's own format: digits of 32 px in three channels."""
    raw = load_digits()
    place, start = folder / name, 0
    place.mkdir()
    for batch, size in batches.items():
        part = slice(start, start := start + size)
        grey = numpy.kron(raw.images[part] * 15.9, numpy.ones((4, 4))).astype("uint8")
        data = numpy.repeat(grey.reshape(size, 1, -1), 3, axis=1).reshape(size, -1)
        content = {"data": data, labels: raw.target[part].tolist()}
        (place / batch).write_bytes(pickle.dumps(content))
    key = "label_names" if labels == "labels" else "fine_label_names"
    names = [f"class_{number}" for number in range(classes)]
    (place / meta).write_bytes(pickle.dumps({key: names}))
    return place


@pytest.fixture(scope="session")
def cifar(tmp_path_factory):
    """Yield an environment whose torchvision downloads small CIFARs, from here."""
    folder = tmp_path_factory.mktemp("mirror")
    ten = {f"data_batch_{number}": 8 for number in range(1, 6)} | {"test_batch": 20}
    hundred = {"train": 40, "test": 20}
    for archive, place in (
        (
            "cifar-10-python",
            _cifar(folder, "cifar-10-batches-py", ten, "batches.meta", "labels", 10),
        ),
        (
            "cifar-100-python",
            _cifar(folder, "cifar-100-python", hundred, "meta", "fine_labels", 100),
        ),
    ):
        with tarfile.open(folder / f"{archive}.tar.gz", "w:gz") as file:
            file.add(place, place.name)
    (folder / "sitecustomize.py").write_text(MIRROR)
    serve = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "PYTHONPATH": str(folder),
            "MIRROR": f"http://127.0.0.1:{server.server_port}",
            "no_proxy": "127.0.0.1",
        }
        server.shutdown()


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return the desk of one who has cloned the repository."""
    folder = tmp_path_factory.mktemp("clone") / "stable-SSL"
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "runs", folder / "runs", ignore=unwanted)
    shutil.copy(REPOSITORY / ".env.template", folder)
    return Desk(folder)
