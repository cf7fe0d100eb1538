"""Loaders of one's own on several processes: each evaluates its part, once."""

from dataclasses import dataclass

import numpy
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
)

from stable_ssl import distributed, load_config, seeding
from stable_ssl.data.datasets import digits
from stable_ssl.data.shares import Share, rows_of, shares
from tests.conftest import Tiny

DATA = TensorDataset(torch.arange(50.0)[:, None], torch.arange(50))


class Stream(IterableDataset):
    """Samples of this process alone."""

    def __iter__(self):
        return iter([DATA[i] for i in range(distributed.rank(), 50, 2)])


@dataclass(frozen=True)
class Pair:
    x: torch.Tensor
    y: torch.Tensor


def as_numpy(samples):
    x, y = default_collate(samples)
    return x.numpy(), y.numpy()


def as_pair(samples):
    return Pair(*default_collate(samples))


def shared_out(name):
    """Return whether a loader is shared out, and this process's numbers by it."""
    rank = distributed.rank()
    made = {
        "plain": lambda: DataLoader(DATA, 8),
        "sampled": lambda: DataLoader(DATA, 8, sampler=DistributedSampler(DATA)),
        "cut by hand": lambda: DataLoader(Subset(DATA, range(rank, 50, 2)), 8),
        "stream": lambda: DataLoader(Stream(), 8),
        "once": lambda: iter([DATA[:8], DATA[8:]]),
        "list": lambda: [DATA[:9], DATA[9:]],
        "shuffled": lambda: DataLoader(DATA, 50, shuffle=True),
        "seeded": lambda: DataLoader(
            DATA, 8, shuffle=True, generator=torch.Generator().manual_seed(0)
        ),
        "numpy by hand": lambda: DataLoader(
            Subset(DATA, range(rank, 50, 2)), 8, collate_fn=as_numpy
        ),
        "dataclass": lambda: DataLoader(DATA, 8, collate_fn=as_pair),
    }
    loader = shares({"val": made[name](), "train": DataLoader(DATA, 8)})
    assert not isinstance(loader["train"], Share)
    seeding.seed_everything(rank)  # as after the modules are placed
    parts = [b.y if isinstance(b, Pair) else b[1] for b in loader["val"]]
    found = numpy.concatenate([numpy.asarray(part) for part in parts]).tolist()
    return isinstance(loader["val"], Share), found


@pytest.mark.parametrize(
    ("name", "is_cut"),
    [
        ("plain", True),
        ("list", True),
        ("sampled", False),
        ("cut by hand", False),
        ("stream", False),
        ("once", False),
        ("shuffled", False),
        ("seeded", True),
        ("numpy by hand", False),
        ("dataclass", True),
    ],
)
def test_what_is_the_same_on_all_processes_is_shared_out(name, is_cut, ranks):
    (first, some), (second, others) = ranks(2, shared_out, name)
    assert first == second == is_cut
    if name not in ("once", "shuffled"):
        assert sorted(some + others) == list(range(50))


def measured(folder):
    """Return the figures of an untrained network by loaders of one's own."""
    torch.set_num_threads(1)
    keys = ["data.num_classes=10", f"log.folder={folder}", "log.eval.linear=null"]
    config = load_config("base", [*keys, "log.monitor=null", "log.pictures=null"])
    loaders = {}
    for split, name in (("train", "bank"), ("train", "train"), ("val", "val")):
        held = digits(subset=split)
        data = TensorDataset(held.images.float() / 255, held.labels)
        loaders[name] = DataLoader(data, 100, shuffle=name == "train")
    run = Tiny(config, **loaders)
    run.setup()
    found = run.evaluate("val")
    run.cleanup()
    return found


def test_processes_evaluate_loaders_of_ones_own_as_one(ranks, tmp_path):
    one = measured(tmp_path / "one")
    assert one["val/knn_acc1"] > 0.5
    for several in ranks(2, measured, str(tmp_path / "two")):
        assert several == pytest.approx(one, abs=1e-6)


def test_rows_of_a_batch_of_any_form():
    x, part = torch.arange(4), slice(1, 3)
    batch = ([x, x], {"name": ["a", "b", "c", "d"], "scale": torch.ones(())}, "split")
    (a, b), others, text = rows_of((*batch,), part, 4)
    assert a.tolist() == b.tolist() == [1, 2] and text == "split"
    assert others == {"name": ["b", "c"], "scale": torch.ones(())}
    assert rows_of(numpy.arange(4), part, 4).tolist() == [1, 2]
    boxes = [torch.rand(i, 4) for i in range(1, 5)]  # of 4 images; the last has 4
    images, cut = rows_of((torch.rand(4, 3), boxes), part, 4)
    assert images.shape == (2, 3) and [len(box) for box in cut] == [2, 3]
