import pytest

from stable_ssl.methods.vicreg import VICReg

TERMS = ("invariance", "variance", "covariance")


@pytest.fixture
def ready(config):
    """Return a VICReg in float64 with a batch."""
    trainer = VICReg(config("vicreg", "++model.projector=[24,8]"))
    trainer.setup()
    trainer.double().train()
    views, labels = next(iter(trainer.train_loader))
    trainer.data = [view.double() for view in views], labels
    yield trainer
    trainer.cleanup()


def test_each_coefficient_weighs_its_term_of_eq_6(ready):  # fault 9
    z = [ready.projector(ready.backbone(view)) for view in ready.data[0]]
    n, d = z[0].shape
    expected = dict.fromkeys(TERMS, 0.0)
    expected["invariance"] = (z[0] - z[1]).square().sum().item() / (n * d)
    for x in z:
        c = (x - x.mean(0)).T @ (x - x.mean(0)) / (n - 1)
        hinge = (1 - (c.diag() + 1e-4).sqrt()).relu().mean().item()
        expected["variance"] += hinge / 2  # the official code's mean over views
        expected["covariance"] += (c - c.diag().diag()).square().sum().item() / d
    model = ready.config.model
    assert [model[term] for term in TERMS] == [25, 25, 1]
    whole = sum(model[term] * expected[term] for term in TERMS)
    assert ready.compute_loss()["loss"].item() == pytest.approx(whole, rel=1e-9)
    for term in TERMS:
        weights = {other: 0.0 for other in TERMS} | {term: 2.0}
        ready.config.model.update(weights)
        found = ready.compute_loss()["loss"].item()
        assert found == pytest.approx(2 * expected[term], rel=1e-9) and found > 0
