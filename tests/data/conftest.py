"""Real photographs, and a loader's views in a canonical order."""

import numpy
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Write 24 JPEGs of 300 to 800 px: parts of scikit-learn's two photographs."""
    root = tmp_path_factory.mktemp("photos")
    whole = [Image.fromarray(image) for image in load_sample_images().images]
    chance = numpy.random.default_rng(0)
    for name, photo in zip(("china", "flower"), whole, strict=True):
        (root / name).mkdir()
        for i in range(12):
            w, h = chance.integers(200, 400, 2)
            x, y = chance.integers(0, photo.width - w), chance.integers(0, 427 - h)
            size = chance.integers(300, 801, 2).tolist()
            photo.crop((x, y, x + w, y + h)).resize(size).save(root / name / f"{i}.jpg")
    return root


@pytest.fixture
def in_order():
    """Return a reader of an epoch: (label, pixels of all views) a sample, sorted."""

    def read(loader, epoch, start=0):
        loader.set_epoch(epoch, start)
        rows = []
        for views, labels in loader:
            views = views if isinstance(views, list) else [views]
            flat = torch.cat([v.flatten(1) for v in views], 1)
            for y, row in zip(labels, flat, strict=True):
                rows.append((int(y), row.numpy().tobytes()))
        return sorted(rows)

    return read
