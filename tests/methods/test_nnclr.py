import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from stable_ssl.methods.nnclr import NNCLR

SMALL = [
    "++model.projector=[32,16]",
    "++model.predictor=24",
    "++model.queue=300",
    "optim.epochs=null",
    "log.monitor=null",
    "log.eval.knn=null",
    "log.eval.linear=null",
]


def start(config, *overrides):
    """Return an NNCLR in float64 before its first step, with a batch."""
    trainer = NNCLR(config("nnclr", *SMALL, *overrides))
    trainer.setup()
    trainer.double().train()
    views, labels = next(iter(trainer.train_loader))
    trainer.data = [view.double() for view in views], labels
    return trainer


@pytest.fixture
def ready(config):
    trainer = start(config, "optim.steps=4")
    yield trainer
    trainer.cleanup()


def test_the_loss_is_eq_3_with_neighbours_from_the_queue_as_queries(ready):
    tau, rows = ready.config.model.temperature, normalize(ready.queue.rows)
    z = [ready.projector(ready.backbone(view)) for view in ready.data[0]]
    p = [normalize(ready.predictor(x)) for x in z]
    near = [torch.stack([rows[(rows @ v).argmax()] for v in x]) for x in z]
    own = torch.arange(len(z[0]))
    expected = (
        cross_entropy(near[0] @ p[1].T / tau, own)
        + cross_entropy(near[1] @ p[0].T / tau, own)
    ) / 2
    loss = ready.compute_loss()["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    trained = list(ready.parameters())
    grads = (torch.autograd.grad(x, trained) for x in (loss, expected))
    for found, reference in zip(*grads, strict=True):  # also after the enqueueing
        torch.testing.assert_close(found, reference, rtol=1e-8, atol=1e-12)


def test_the_predictor_gets_projections(ready):  # fault 20
    seen = []
    ready.predictor.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    z = [ready.projector(ready.backbone(view)) for view in ready.data[0]]
    ready.compute_loss()["loss"]
    for found, expected in zip(seen, z, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_first_views_projections_are_enqueued_after_the_loss(ready):
    z = ready.projector(ready.backbone(ready.data[0][0]))
    ready.compute_loss()["loss"]
    torch.testing.assert_close(ready.queue.rows[: len(z)], normalize(z))
    assert ready.queue.pointer == len(z)


def test_a_loss_that_is_only_evaluated_leaves_the_queue(ready):
    before = {name: x.clone() for name, x in ready.queue.state_dict().items()}
    ready.eval()
    ready.compute_loss()["loss"]
    for name, x in ready.queue.state_dict().items():
        assert x.equal(before[name])


def test_every_micro_batch_is_enqueued_once(config):
    trainer = NNCLR(config("nnclr", *SMALL, "optim.steps=2", "optim.accumulate=3"))
    trainer.setup()
    trainer.train_epoch()
    assert trainer.step == 2 and trainer.queue.pointer == 6 * 128 % 300
    trainer.cleanup()
