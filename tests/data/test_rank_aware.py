"""Datasets of LitData and Mosaic: by number, or refused with the reason."""

import sys
from types import ModuleType

import pytest
import torch
from torch.utils.data import Dataset, DistributedSampler, IterableDataset, Sampler

from stable_ssl import load_config
from stable_ssl.config import ConfigError
from stable_ssl.data import build_loaders
from stable_ssl.data.objects import put_into


class StreamingDataset(IterableDataset):
    """Stands for that of LitData or Mosaic, which has samples by number, too."""

    def __init__(self, folder="", subset=None):
        raise AssertionError("was built")

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.full((3, 8, 8), index, dtype=torch.uint8), index % 3

    def __iter__(self):
        return map(self.__getitem__, range(12))


@pytest.fixture
def library(monkeypatch, request):
    """Return the stand-in, in a package of the library's name."""
    name = request.param
    found = type("StreamingDataset", (IterableDataset,), dict(vars(StreamingDataset)))
    found.__module__, package = f"{name}.base.dataset", ModuleType(name)
    package.StreamingDataset = found
    monkeypatch.setitem(sys.modules, name, package)
    return found


def loaders(*overrides, objects=None):
    keys = ["data.val=null", "data.test=null", "data.batch_size=4", *overrides]
    return build_loaders(load_config("base", keys), torch.device("cpu"), objects)


@pytest.mark.parametrize(
    ("library", "remedy"),
    [("litdata", "map-style Dataset of your own"), ("streaming", "LocalDataset reads")],
    indirect=["library"],
)
def test_what_divides_itself_among_ranks_is_refused_before_it_is_built(library, remedy):
    package = library.__module__.partition(".")[0]
    node = f"{{_target_: {package}.StreamingDataset, folder: x}}"
    with pytest.raises(ConfigError, match=f"each rank and worker .*{remedy}"):
        loaders(f"++data.train.dataset={node}")


@pytest.mark.parametrize("library", ["litdata"], indirect=True)
def test_an_object_or_a_subclass_is_refused_too(library):
    mine = type("Mine", (library,), {"__init__": lambda self: None})()
    config = load_config("base", ["data.batch_size=4"])
    objects = put_into(config, {"train": mine, "val": None, "test": None})
    with pytest.raises(ConfigError, match="Mine is a litdata.StreamingDataset, which"):
        build_loaders(config, torch.device("cpu"), objects)


class ByNumber(Dataset):
    """What the message says: the samples of another by their number."""

    def __init__(self):
        self.inner = object.__new__(StreamingDataset)

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return self.inner[index]


def test_one_held_in_a_map_style_class_is_taken():
    node = f"{{_target_: {__name__}.ByNumber}}"
    train = loaders(f"++data.train.dataset={node}")["train"]
    labels = [y for _, labels in train for y in labels.tolist()]
    assert sorted(labels) == [0] * 4 + [1] * 4 + [2] * 4


class Passing(DistributedSampler):
    """A subclass whose own arguments say nothing of the ranks."""

    def __init__(self, dataset, **more):
        raise AssertionError("was built")


def two_of(dataset):
    return DistributedSampler(dataset, 2, 0)


@pytest.mark.parametrize(
    "target",
    [
        "torch.utils.data.DistributedSampler",
        *(f"{__name__}.{n}" for n in ("Passing", "two_of")),
    ],
)
def test_a_sampler_of_a_share_is_refused(target):
    node = f"++data.train.sampler={{_target_: {target}}}"
    with pytest.raises(ConfigError, match="a share of the samples.*set shuffle: true"):
        loaders(node)


class ByEpoch(Sampler):
    """All samples, turned by the epoch that it is told."""

    def __init__(self, dataset):
        self.size, self.epoch = len(dataset), 0

    def __len__(self):
        return self.size

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter([(i + self.epoch) % self.size for i in range(self.size)])


def test_a_sampler_is_told_the_epoch():
    train = loaders(f"++data.train.sampler={{_target_: {__name__}.ByEpoch}}")["train"]
    for epoch in (0, 3, 1):
        train.set_epoch(epoch)
        assert train.sampler.order()[:2].tolist() == [epoch, epoch + 1]
