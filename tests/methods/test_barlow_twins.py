import pytest

from stable_ssl.methods.barlow_twins import BarlowTwins


def loss(config, *overrides):
    """Return the loss of the first batch in float64, and the projections in it."""
    trainer = BarlowTwins(
        config("barlow_twins", "++model.projector=[24,8]", *overrides)
    )
    trainer.setup()
    trainer.double().train()
    views, labels = next(iter(trainer.train_loader))
    trainer.data = [view.double() for view in views], labels
    z = [trainer.projector(trainer.backbone(view)) for view in trainer.data[0]]
    trainer.cleanup()
    return trainer.compute_loss()["loss"], *z


def test_the_loss_is_eq_1_of_projections_that_the_loss_alone_normalises(config):
    found, *z = loss(config, "++model.offdiagonal=0.02", "++model.scale=0.5")
    variances = [x.var(0, correction=0) + 1e-5 for x in z]
    z_a, z_b = ((x - x.mean(0)) / v.sqrt() for x, v in zip(z, variances, strict=True))
    correlation, expected = z_a.T @ z_b / len(z_a), 0
    for i, row in enumerate(correlation):
        for j, c in enumerate(row):
            expected += (1 - c) ** 2 if i == j else 0.02 * c**2
    assert found.item() == pytest.approx(0.5 * expected.item(), rel=1e-9)
    assert (z[0].norm(dim=1) - 1).abs().min() > 1e-3


def test_the_coefficients_are_the_configs(config):  # fault 8
    whole, *_ = loss(config)
    part, *_ = loss(config, "++model.scale=0.01")
    other, *_ = loss(config, "++model.offdiagonal=0.5")
    assert part.item() < whole.item() < other.item()
