import pytest
import torch
from torch.nn.functional import normalize

from stable_ssl.methods.moco_v2 import MoCoV2

SMALL = ["++model.projector=[32,16]", "++model.queue=300", "optim.epochs=null"]
SMALL += ["log.monitor=null", "log.eval.knn=null", "log.eval.linear=null"]


@pytest.fixture
def ready(config):
    """Return a MoCo v2 in float64 before its first step, with a batch."""
    trainer = MoCoV2(config("moco_v2", *SMALL, "optim.steps=4"))
    trainer.setup()
    trainer.double().train()
    views, labels = next(iter(trainer.train_loader))
    trainer.data = [view.double() for view in views], labels
    yield trainer
    trainer.cleanup()


def test_a_view_has_its_own_queue_and_enqueues_after_the_loss(ready):  # faults 14, 15
    torch.nn.init.normal_(ready.teacher.module[1][0].weight)  # unlike the student's
    a, b = ready.queues
    assert not a.rows.isclose(b.rows).any()
    keys = [normalize(ready.teacher.module(view)) for view in ready.data[0]]
    before = [queue.rows.clone() for queue in ready.queues]
    first = ready.compute_loss()["loss"]
    for queue, of_view in zip(ready.queues, keys, strict=True):
        torch.testing.assert_close(queue.rows[: len(of_view)], of_view.detach())
        assert queue.pointer == len(of_view)
    for queue, rows in zip(ready.queues, before, strict=True):
        queue.rows = rows
    torch.testing.assert_close(ready.compute_loss()["loss"], first)


def test_keys_have_no_gradient_and_an_evaluated_batch_is_not_enqueued(ready):
    ready.compute_loss()["loss"].backward()
    assert all(p.grad is None for p in ready.teacher.parameters())
    ready.eval()  # nothing is enqueued
    pointers = [int(queue.pointer) for queue in ready.queues]
    ready.compute_loss()
    assert [int(queue.pointer) for queue in ready.queues] == pointers


def test_every_micro_batch_is_enqueued_once(config):
    trainer = MoCoV2(config("moco_v2", *SMALL, "optim.steps=2", "optim.accumulate=3"))
    trainer.setup()
    trainer.train_epoch()
    assert trainer.step == 2
    assert [int(queue.pointer) for queue in trainer.queues] == [6 * 128 % 300] * 2
    trainer.cleanup()
