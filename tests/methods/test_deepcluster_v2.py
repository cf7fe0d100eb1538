import pytest
import torch
from torch.utils.data import DataLoader

from stable_ssl.config import ConfigError
from stable_ssl.methods.deepcluster_v2 import DeepClusterV2
from stable_ssl.vectors import unit

SMALL = ["++model.projector=[32,16]", "++model.prototypes=8", "optim.epochs=null"]
SMALL += ["log.monitor=null", "log.eval.knn=null", "log.eval.linear=null"]


@pytest.fixture
def ready(config):
    """Return one before its first epoch."""
    trainer = DeepClusterV2(config("deepcluster_v2", *SMALL, "optim.steps=4"))
    trainer.setup()
    trainer.train()
    yield trainer
    trainer.cleanup()


def test_before_the_first_epoch_all_images_are_embedded_and_clustered(ready):
    ready.before_train_epoch()
    seen = ready.memory.rows[0].any(1)
    assert int(seen.sum()) == len(ready.train_loader) * 128  # 9 of 9.4 batches
    assert (ready.memory.assignments[seen] >= 0).all()
    assert (ready.memory.assignments[~seen] == -1).all()
    before = ready.memory.rows.clone()
    ready.step = 1  # a later epoch clusters what the last one left
    ready.before_train_epoch()
    assert ready.memory.rows.equal(before)


def test_projections_are_kept_at_the_place_of_their_image(ready):
    ready.before_train_epoch()
    ready.train_loader.set_epoch(1)
    batches = iter(ready.train_loader)
    next(batches)
    ready.data = next(batches)
    index = ready.train_loader.index
    labels = ready.train_loader.dataset.labels[index]
    assert labels.equal(ready.data[1])  # the loader says which images they are
    before = ready.memory.rows.clone()
    views = torch.cat(ready.data[0])
    z = unit(ready.projector(ready.backbone(views))).detach().chunk(2)
    ready.compute_loss()
    for rows, view in zip(ready.memory.rows, z, strict=True):
        torch.testing.assert_close(rows[index], view)
    others = torch.ones(1197, dtype=torch.bool)
    others[index] = False
    assert ready.memory.rows[:, others].equal(before[:, others])
    ready.eval()
    kept = ready.memory.rows.clone()
    ready.compute_loss()
    assert ready.memory.rows.equal(kept)


@pytest.mark.parametrize("count", [1196, 50000])
def test_data_of_another_length_are_refused(config, count):
    trainer = DeepClusterV2(config("deepcluster_v2", f"++model.images={count}"))
    with pytest.raises(ConfigError, match=f"images={count} and train data of 1197"):
        trainer.setup()
    trainer.cleanup()


def test_a_loader_of_ones_own_is_refused(config):
    sample = torch.zeros(1, 8, 8)
    loader = DataLoader([((sample, sample), 0)] * 256, batch_size=128)
    own = "data.val=null", "data.test=null", "++model.images=256", "optim.steps=4"
    trainer = DeepClusterV2(config("deepcluster_v2", *own, *SMALL), train=loader)
    with pytest.raises(ConfigError, match="give a dataset"):
        trainer.setup()
    trainer.cleanup()
