"""A loader that is brought: its batch size is read, and asked as the library's are."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
)

from stable_ssl import ConfigError, VICReg, distributed
from stable_ssl.data.batch_sizes import Sizes, batch_size_of, sizes_of

IMAGES = TensorDataset(torch.rand(33, 1, 8, 8), torch.arange(33) % 10)


class Batches:
    """Yield them, and say no more than how many there are."""

    def __len__(self):
        return 2

    def __iter__(self):
        for rows in torch.arange(32).split(16):
            yield IMAGES[rows]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(IMAGES)


def by_batches(drop_last):
    return DataLoader(
        IMAGES, batch_sampler=BatchSampler(RandomSampler(IMAGES), 16, drop_last)
    )


@pytest.mark.parametrize(
    ("loader", "batch_size", "sizes"),
    [
        (DataLoader(IMAGES, 16), 16, Sizes(16, 1, 33)),
        (DataLoader(IMAGES, 16, drop_last=True), 16, Sizes(16, 0, 33)),
        (DataLoader(IMAGES, 50), 50, Sizes(33, 0, 33)),
        (by_batches(False), 16, Sizes(16, 1, 33)),
        (by_batches(True), 16, Sizes(16, 0, 33)),
        (DataLoader(IMAGES, batch_size=None), None, None),
        (DataLoader(Stream(), 16), 16, None),
        (Batches(), None, None),
        ([], None, None),
    ],
)
def test_what_a_loader_says_of_its_batches(loader, batch_size, sizes):
    assert batch_size_of(loader) == batch_size and sizes_of(loader) == sizes


def test_a_loader_that_shares_has_the_batches_of_all_processes(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    sampler = DistributedSampler(IMAGES, num_replicas=3, rank=0)
    by_batches = BatchSampler(sampler, 4, drop_last=False)
    for loader in (
        DataLoader(IMAGES, 4, sampler=sampler),
        DataLoader(IMAGES, batch_sampler=by_batches),
    ):
        assert batch_size_of(loader) == 12 and sizes_of(loader) == Sizes(12, 9, 33)
    assert batch_size_of(DataLoader(IMAGES, 4)) == 4


SCALED = ["optim.scale_lr_by=32", "optim.scheduler.name=constant", "optim.epochs=1"]


@pytest.mark.parametrize("loader", [DataLoader(IMAGES, 16), by_batches(True)])
def test_a_rate_is_scaled_by_the_batch_size(tiny, config, rows, loader):
    trainer = tiny(config("base", "data.num_classes=10", *SCALED), train=loader)
    trainer.run()
    assert rows(trainer.run_dir)[-1]["train/lr"] == pytest.approx(0.1 / 2)


def test_a_rate_is_not_scaled_by_a_batch_size_that_nobody_states(tiny, config, rows):
    own = ["data.num_classes=10", "log.every_n_steps=1", "log.eval.linear=null"]
    with pytest.raises(ConfigError, match="the train loader states none"):
        tiny(config("base", *own, *SCALED), train=Batches()).run()
    trainer = tiny(config("base", *own, "log.run=plain"), train=Batches())
    trainer.run()
    assert "perf/images_per_s" not in rows(trainer.run_dir)[0]
    said = (trainer.run_dir / "console.log").read_text()
    assert "2 epochs of 2 steps\n" in said


def pairs(batch):
    images, labels = zip(*batch, strict=True)
    return [torch.stack(images)] * 2, torch.tensor(labels)


def test_batches_that_would_weigh_otherwise_are_refused(tiny, config):
    own = config("base", "data.num_classes=10", "optim.accumulate=3")
    with pytest.raises(ConfigError, match="a last batch of 1, and optim.accumulate=3"):
        tiny(own, train=DataLoader(IMAGES, 16)).run()


def test_a_last_batch_that_is_too_small_is_refused_before_the_first(config):
    own = config("vicreg", "data.num_classes=10")
    twice = TensorDataset(torch.rand(33, 1, 8, 8), torch.arange(33) % 10)
    with pytest.raises(ConfigError, match="a last batch of 1, and VICReg needs 2"):
        VICReg(own, train=DataLoader(twice, 16)).setup()
    with pytest.raises(ConfigError, match="batch_size=1, and VICReg needs 2 images"):
        VICReg(own, train=DataLoader(twice, 1)).setup()
    made = VICReg(own, train=DataLoader(twice, 16, collate_fn=pairs))
    made.setup()  # what a collate_fn makes of a sample is its own business
    made.cleanup()
