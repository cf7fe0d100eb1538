"""SwAV: swapped predictions, prototypes of norm 1 and a queue of projections."""

import pytest
import torch

from stable_ssl import ConfigError, SwAV
from stable_ssl.checkpoint import load

SMALL = "[{name: random_resized_crop, size: 4, scale: [0.1, 0.4]}]"
VIEW = "${data.transforms.view}"
TINY = [
    "data.batch_size=6",
    "++model.backbone.width=4",
    "model.projector=[8,5]",
    "model.prototypes=4",
    "model.epsilon=0.05",
    "model.queue=9",
    "model.queue_epoch=1",
    f"data.train.dataset.image_transform=[{VIEW},{VIEW},{SMALL}]",
]


@pytest.fixture
def make(config):
    """Return a maker of a tiny SwAV in float64 that holds a batch of three views."""
    made = []

    def build(*overrides):
        trainer = SwAV(config("swav", *TINY, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double().train()
        views, labels = next(iter(trainer.train_loader))
        trainer.data = [view.double() for view in views], labels
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def step(trainer):
    trainer.before_train_step()
    trainer.train_step(trainer.data)
    trainer.after_train_step()


def projections(trainer):
    first, second, small = trainer.data[0]
    large = trainer.backbone(torch.cat([first, second]))
    z = trainer.projector(torch.cat([large, trainer.backbone(small)]))
    return (z / z.norm(dim=1, keepdim=True)).chunk(3)


def assign(scores, epsilon=0.05):
    """Return Sinkhorn-Knopp's assignments as in the paper's listing."""
    q = (scores / epsilon).exp().T
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_loss_is_that_of_the_paper_put_together_by_hand(make, epoch):
    trainer = make()
    trainer.epoch = epoch
    scores = [z @ trainer.prototypes.weight.T for z in projections(trainer)]
    assert [view.shape[-1] for view in trainer.data[0]] == [8, 8, 4]
    terms = []
    for i in (0, 1):
        pool = scores[i].detach()
        if epoch == 1:  # from now on the queue takes part
            earlier = trainer.queues[i].rows @ trainer.prototypes.weight.T
            pool = torch.cat([pool, earlier.detach()])
        code = assign(pool)[:6]
        for j in {0, 1, 2} - {i}:
            terms.append(-(code * (scores[j] / 0.1).log_softmax(1)).sum(1).mean())
    torch.testing.assert_close(
        trainer.compute_loss()["loss"], torch.stack(terms).mean()
    )


def test_prototypes_have_norm_one_in_each_step(make):  # fault 17
    trainer = make("++model.freeze_epochs=0", "optim.lr=3")
    weight = trainer.prototypes.weight
    for _ in range(3):
        trainer.before_train_step()
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(4).double())
        step(trainer)
        assert (weight.norm(dim=1) - 1).abs().max() > 1e-4


def test_prototypes_stay_in_the_first_epochs(make):
    trainer = make("++model.freeze_epochs=2", "optim.weight_decay=0.1")
    for trainer.epoch in (0, 1, 2):
        before = trainer.prototypes.weight.clone()
        step(trainer)
        assert trainer.prototypes.weight.isclose(before).all() == (trainer.epoch < 2)


def test_the_queue_holds_each_views_projections_as_they_were_computed(make):  # fault 18
    trainer = make()
    trainer.epoch = 1  # the queue takes part, and is not what is stored
    expected = [z.detach() for z in projections(trainer)]
    trainer.compute_loss()["loss"]
    for queue, z in zip(trainer.queues, expected[:2], strict=True):
        assert queue.pointer == 6
        torch.testing.assert_close(queue.rows[:6], z)
    assert not trainer.queues[0].rows.isclose(trainer.queues[1].rows).any()


def test_a_resumed_run_finds_its_queue(config):  # fault 18
    options = [*TINY, "optim.epochs=null", "optim.steps=2"]
    trainer = SwAV(config("swav", *options))
    trainer.run()
    kept = load(trainer.run_dir / "ckpts" / "last.ckpt")["modules"]
    for i, queue in enumerate(trainer.queues):
        assert kept[f"queues.{i}.rows"].equal(queue.rows)
        assert kept[f"queues.{i}.pointer"] == queue.pointer == 12 % 9


def test_ranks_share_the_queue_in_parts(make):
    trainer = make()
    trainer.epoch = 1
    whole = trainer.queue_scores()
    parts = []
    trainer.world_size = 2
    for trainer.rank in (0, 1):
        parts.append(trainer.queue_scores())
    trainer.rank, trainer.world_size = 0, 1
    assert [len(part[0]) for part in parts] == [5, 4]
    for view in (0, 1):
        found = torch.cat([part[view] for part in parts])
        torch.testing.assert_close(found, whole[view])


def test_without_a_queue(make):
    trainer = make("model.queue=0")
    trainer.epoch = 100
    assert trainer.queue_scores() is None and trainer.compute_loss()["loss"].isfinite()


def test_a_single_view_is_refused(config):
    one = f"data.train.dataset.image_transform={VIEW}"
    with pytest.raises(ConfigError, match="views: 1, and SwAV needs 2 or more"):
        SwAV(config("swav", *TINY[:-1], one)).run()
