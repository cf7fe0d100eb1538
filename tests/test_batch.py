"""Batches of any form: counted, moved, and never passed over in silence."""

from dataclasses import dataclass

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from stable_ssl import ConfigError
from stable_ssl.batch import count, seen, to_device
from tests.conftest import Tiny

IMAGES, LABELS = torch.rand(30, 1, 8, 8), torch.arange(30) % 10


@dataclass(slots=True, frozen=True)
class Pair:
    """What has no method to move it."""

    x: torch.Tensor
    to: str = "the right"


@dataclass
class Graph:
    x: torch.Tensor
    y: torch.Tensor

    def to(self, device):
        return Graph(self.x.to(device), self.y.to(device))


class Opaque:
    pass


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        (IMAGES, 30),
        (torch.ones(()), 1),
        ([IMAGES, LABELS], 30),
        ({"name": ["a", "b"], "x": IMAGES}, 30),
        ((["a"], numpy.ones((4, 2))), 4),
        (Graph(IMAGES, LABELS), 30),
        (Pair(IMAGES[:3]), 3),
        ({"part": Graph(IMAGES[:2], LABELS[:2])}, 2),
        ((IMAGES[:0], LABELS[:0]), 0),
        (([], LABELS[:0]), 0),
        (Opaque(), None),
        ((["a"], {"b": 1}), None),
    ],
)
def test_samples_are_counted_where_a_batch_says_how_many(batch, rows):
    assert count(batch) == rows


def test_what_can_be_moved_is_moved():
    batch = {"graph": Graph(IMAGES, LABELS), "names": ["a"], "pair": (LABELS, 3)}
    batch["fixed"] = Pair(IMAGES)
    moved = to_device(batch, torch.device("meta"))
    assert moved["fixed"].x.is_meta and moved["fixed"].to == "the right"
    assert not batch["fixed"].x.is_meta
    assert moved["graph"].x.is_meta and moved["graph"].y.is_meta
    assert moved["pair"][0].is_meta and moved["pair"][1] == 3
    assert moved["names"] == ["a"]


def test_what_an_evaluation_sees_is_made_in_full_precision():
    class Product:
        """A loader whose images are a product of matrices, as crops are."""

        def __iter__(self):
            for _ in range(4):
                yield IMAGES @ IMAGES.mT, LABELS

    with torch.autocast("cpu", torch.bfloat16):
        batches = list(seen(Product(), torch.device("cpu"), limit=3))
        assert (IMAGES @ IMAGES.mT).dtype == torch.bfloat16
    assert [x.dtype for x, _ in batches] == 3 * [torch.float32]
    assert len(list(seen(Product(), torch.device("cpu")))) == 4


class Own(Tiny):
    predicts = False

    def parts(self):
        data = self.data
        if isinstance(data, Opaque):
            return data.images, data.labels
        pair = (data.x, data.y) if isinstance(data, Graph) else data
        return [torch.as_tensor(part) for part in pair]

    def compute_loss(self):
        images, labels = self.parts()
        return torch.nn.functional.cross_entropy(self(images), labels)

    def eval_step(self, batch):
        images, labels = self.parts()
        right = (self(images).argmax(1) == labels).double()
        self.log({"val/mine": right.mean()})


def opaque(images, labels):
    batch = Opaque()
    batch.images, batch.labels = images, labels
    return batch


OFF = ["data.num_classes=10", "log.eval.knn=null", "log.eval.linear=null"]
OFF += ["log.monitor=null"]


def test_batches_of_any_form_are_evaluated(config):
    found = {}
    forms = {
        "pairs": lambda *pair: pair,
        "arrays": lambda *pair: [part.numpy() for part in pair],
        "dataclasses": Graph,
        "unknown": opaque,
    }
    for name, form in forms.items():
        collate = lambda batch: form(*map(torch.stack, zip(*batch, strict=True)))  # noqa
        data = DataLoader(TensorDataset(IMAGES, LABELS), 10, collate_fn=collate)
        run = Own(config("base", *OFF, f"log.run={name}"), train=data, val=data)
        run.run()
        found[name] = run.metrics["val/mine"]
    assert max(found.values()) - min(found.values()) < 1e-12  # three means of ten


def test_an_iterator_is_no_split(config):
    batches = ((IMAGES, LABELS) for _ in range(3))
    with pytest.raises(ConfigError, match="found val=.*at each evaluation"):
        Tiny(config("base", *OFF), train=[(IMAGES, LABELS)], val=batches)


class Again:
    """An iterator that begins anew, as some loaders of others do."""

    def __iter__(self):
        self.batches = iter([(IMAGES, LABELS)])
        return self

    def __next__(self):
        return next(self.batches)


def test_an_iterator_that_begins_anew_is_a_split(config, rows):
    data = DataLoader(TensorDataset(IMAGES, LABELS), 10)
    run = Tiny(config("base", *OFF), train=data, val=Again())
    run.run()
    assert len([row for row in rows(run.run_dir) if "val/acc1" in row]) == 2


class Empty:
    def __iter__(self):
        return iter(())


def test_a_split_without_a_batch_is_said(config):
    data = DataLoader(TensorDataset(IMAGES, LABELS), 10)
    with pytest.warns(UserWarning, match="val yielded no batch"):
        Tiny(config("base", *OFF), train=data, val=Empty()).run()
