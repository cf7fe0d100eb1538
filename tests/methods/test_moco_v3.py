import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from stable_ssl.methods.moco_v3 import MoCoV3

SMALL = ["++model.projector=[32,16]", "++model.predictor=24", "++model.momentum=0.9"]


@pytest.fixture
def ready(config):
    """Return a MoCo v3 in float64 before its first step, with a batch."""
    trainer = MoCoV3(config("moco_v3", *SMALL))
    trainer.setup()
    trainer.double().train()
    views, labels = next(iter(trainer.train_loader))
    trainer.data = [view.double() for view in views], labels
    yield trainer
    trainer.cleanup()


def algorithm_1(trainer, tau):
    """Return the loss of the paper's pseudo-code."""
    a, b = trainer.data[0]
    q = [
        normalize(trainer.predictor(trainer.projector(trainer.backbone(view))))
        for view in (a, b)
    ]
    with torch.no_grad():
        k = [normalize(trainer.teacher.module(view)) for view in (b, a)]
    own = torch.arange(len(a))
    terms = zip(q, k, strict=True)
    return sum(2 * tau * cross_entropy(x @ y.T / tau, own) for x, y in terms)


def test_the_loss_is_algorithm_1_at_the_configured_temperature(ready):  # fault 29
    torch.nn.init.normal_(ready.teacher.module[1][0].weight)  # unlike the student's
    trained = [p for p in ready.parameters() if p.requires_grad]
    values = []
    for tau in (0.2, 1.0):
        ready.config.model.temperature = tau
        loss, expected = ready.compute_loss()["loss"], algorithm_1(ready, tau)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
        grads = (torch.autograd.grad(x, trained) for x in (loss, expected))
        for found, reference in zip(*grads, strict=True):  # the keys are constants
            torch.testing.assert_close(found, reference, rtol=1e-8, atol=1e-12)
        values.append(loss.item())
    assert abs(values[0] - values[1]) > 0.1


def test_after_a_step_the_teacher_has_moved_and_no_gradient(ready):
    before = [p.clone() for p in ready.teacher.parameters()]
    ready.train_step(ready.data)
    assert all(p.grad is None for p in ready.teacher.parameters())
    for p, old in zip(ready.teacher.parameters(), before, strict=True):
        assert p.equal(old)
    ready.after_train_step()
    student = [*ready.backbone.parameters(), *ready.projector.parameters()]
    for p, s, old in zip(ready.teacher.parameters(), student, before, strict=True):
        torch.testing.assert_close(p - old, 0.1 * (s - old), rtol=0.1, atol=1e-9)
