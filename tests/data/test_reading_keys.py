"""What the configuration says of images holds in every split, however they are read.

Each source writes the same 24 images; every loader of a run, that of the bank too, must
show them as the float64 reference, held in memory or read, with an op of one sample or
without.
"""

import numpy
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from stable_ssl import load_config
from stable_ssl.augment import OPS
from stable_ssl.data import register_op
from stable_ssl.data.build import build_loaders

CHANCE = numpy.random.default_rng(0)
BANDS = 5
DEEP = CHANCE.integers(0, 4001, (24, 16, 16, BANDS))  # (N, H, W, C)
LABELS = numpy.arange(24) % 2
TYPES = ("uint16", "int16", "int32", "float32", ">i4")
RIGHT = DEEP.transpose(0, 3, 1, 2) / 4000


class Own(Dataset):
    """The images as arrays of a type, (H, W, C) or (C, H, W)."""

    num_classes = 2

    def __init__(self, kind, layout):
        self.images = DEEP if layout == "hwc" else DEEP.transpose(0, 3, 1, 2)
        self.kind = kind

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index].astype(self.kind), int(LABELS[index])


def same(x):
    return x


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_op("test_same", per_sample=True)(same)
    yield
    del OPS["test_same"]


def write(root, source, kind, layout):
    """Write a source's files, once; return the node of its dataset."""
    images = DEEP if layout == "hwc" else DEEP.transpose(0, 3, 1, 2)
    images, root = images.astype(kind), root / f"{source}_{kind.strip('>')}_{layout}"
    if source == "own":
        return {"_target_": f"{__name__}.Own", "kind": kind, "layout": layout}
    if source == "array":
        node = {"name": "array", "root": str(root), "images": "x.npy"}
        if not root.exists():
            root.mkdir()
            numpy.save(root / "x.npy", images)
            numpy.save(root / "y.npy", LABELS)
        return {**node, "labels": "y.npy"}
    if not root.exists():
        for i, (image, label) in enumerate(zip(images, LABELS, strict=True)):
            (root / str(label)).mkdir(parents=True, exist_ok=True)
            file = root / str(label) / f"{i:02}"
            if source == "npy":
                numpy.save(file.with_suffix(".npy"), image)
            else:
                planar = "contig" if layout == "hwc" else "separate"
                options = {"photometric": "minisblack", "planarconfig": planar}
                tifffile.imwrite(file.with_suffix(".tif"), image, **options)
    return {"name": "image_folder", "root": str(root), "channels": "all"}


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    source=st.sampled_from(["own", "array", "npy", "tiff"]),
    kind=st.sampled_from(TYPES),
    layout=st.sampled_from(["hwc", "chw"]),
    held=st.booleans(),
    per_sample=st.booleans(),
    stated=st.booleans(),
    of_group=st.booleans(),
)
@pytest.mark.slow
def test_every_split_shows_what_the_files_hold(
    tmp_path_factory, source, kind, layout, held, per_sample, stated, of_group
):
    root = tmp_path_factory.getbasetemp()
    node = write(root, source, kind if source != "tiff" else kind.strip(">"), layout)
    how = {"range": [0, 4000]} | ({"layout": layout} if stated else {})
    keys = [f"data.in_memory={2.0 * held}", "data.batch_size=24", "data.root=/"]
    config = load_config("base", keys)
    ops = [{"name": "test_same"}] if per_sample else []
    for split in ("train", "val", "test"):
        loader = {"dataset": {**node, "image_transform": ops}}
        config.data[split] = loader if of_group else loader | how
    if of_group:
        for name, value in how.items():
            config.data[name] = value
    loaders = build_loaders(config, torch.device("cpu"))
    assert set(loaders) == {"train", "val", "test", "bank"}
    order = numpy.argsort(LABELS, kind="stable") if "name" in node else None
    for name, loader in loaders.items():
        ((x, y),) = loader
        rows = loader.index.numpy()
        if order is not None and node["name"] == "image_folder":
            rows = order[rows]
        assert x.dtype == torch.float32
        assert numpy.abs(x.double().numpy() - RIGHT[rows]).max() <= 1e-6, name
        assert y.tolist() == LABELS[rows].tolist()
        loader.close()
