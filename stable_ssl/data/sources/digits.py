"""The embedded default: scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy
import torch

from stable_ssl import seeding
from stable_ssl.data.sources.held import Images
from stable_ssl.data.sources.source import subsets

SPLIT = {"train": (0, 1197), "val": (1197, 1397), "test": (1397, 1797)}


def digits(root: str = "", subset: str | Sequence[str] | None = None) -> Images:
    """Return scikit-learn's handwritten digits, (1, 8, 8), split once and for good.

    Source: the test part of UCI's "Optical Recognition of Handwritten Digits"; 1,797
    images of 10 classes: 1,197 train, 200 val, 400 test.
    """
    package = find_spec("sklearn").submodule_search_locations[0]
    try:  # its file of 64 values, 0 to 16, and the label: to import it takes 1.5 s
        file = Path(package, "datasets", "data", "digits.csv.gz")
        raw = numpy.loadtxt(file, delimiter=",")
    except OSError:  # moved by another version
        from sklearn.datasets import load_digits

        raw = numpy.column_stack(load_digits(return_X_y=True))
    raw = torch.from_numpy(raw)
    images = raw[:, :-1].mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    whole = Images(images, raw[:, -1].long(), 10, origin=("digits", None))
    order = seeding.permutation(len(whole), 0)
    ranges = [slice(*SPLIT[name]) for name in subsets(subset, list(SPLIT))]
    return whole.subset(torch.cat([order[rows] for rows in ranges]))
