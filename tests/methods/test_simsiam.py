import pytest
import torch
from torch.nn.functional import cosine_similarity

from stable_ssl.methods.simsiam import SimSiam

SMALL = ["++model.projector=[24,16]", "++model.predictor=8", "optim.epochs=null"]


@pytest.fixture
def ready(config):
    """Return a SimSiam in float64 before its first step, with a batch."""
    trainer = SimSiam(config("simsiam", *SMALL, "optim.steps=4"))
    trainer.setup()
    trainer.double().train()
    views, labels = next(iter(trainer.train_loader))
    trainer.data = [view.double() for view in views], labels
    yield trainer
    trainer.cleanup()


def test_no_gradient_reaches_the_projection_that_is_predicted(ready):
    z = [ready.projector(ready.backbone(view)) for view in ready.data[0]]
    p = [ready.predictor(x) for x in z]

    def eq_4(a, b):
        cosines = cosine_similarity(p[0], b), cosine_similarity(p[1], a)
        return -sum(cosine.mean() for cosine in cosines) / 2

    loss, expected = ready.compute_loss()["loss"], eq_4(z[0].detach(), z[1].detach())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    weights = list(ready.backbone.parameters())
    found, stopped, through = (
        torch.autograd.grad(x, weights, retain_graph=True)
        for x in (loss, expected, eq_4(*z))
    )
    for i, reference in enumerate(stopped):
        torch.testing.assert_close(found[i], reference, rtol=1e-7, atol=1e-12)
    assert (found[0] - through[0]).norm() > 0.1 * found[0].norm()


def test_projections_have_a_spread_of_one_and_no_scale_of_their_own(ready):
    norm = ready.projector[-1]
    assert isinstance(norm, torch.nn.BatchNorm1d) and norm.weight is None
    z = ready.projector(ready.backbone(ready.data[0][0]))
    spread = z.std(0, correction=0)
    torch.testing.assert_close(spread, torch.ones_like(spread), rtol=0.05, atol=0)


def test_the_recipes_keep_the_predictors_learning_rate(ready):
    for _ in range(3):
        ready.scheduler.step()
    names = {id(p): name for name, p in ready.named_parameters()}
    for group in ready.optimizer.param_groups:
        for parameter in group["params"]:
            constant = names[id(parameter)].startswith("predictor.")
            assert (group["lr"] == group["base_lr"]) == constant
