"""LeJEPA: views against the mean of the global ones, and Gaussian projections."""

import pytest
import torch

from stable_ssl import ConfigError, LeJEPA, seeding

SMALL = "[{name: random_resized_crop, size: 4, scale: [0.1, 0.4]}]"
VIEW = "${data.transforms.view}"
TINY = [
    "data.batch_size=6",
    "++model.backbone.width=4",
    "model.projector=[8,5]",
    "model.directions=7",
    f"data.train.dataset.image_transform=[{VIEW},{VIEW},{SMALL}]",
]


@pytest.fixture
def trainer(config):
    """Return a tiny LeJEPA in float64 that holds a batch of three views."""
    trainer = LeJEPA(config("lejepa", *TINY, "++model.weight=0.3"))
    trainer.setup()
    trainer.double().train()
    views, labels = next(iter(trainer.train_loader))
    trainer.data = [view.double() for view in views], labels
    yield trainer
    trainer.cleanup()


def epps_pulley(x):
    """Return N integral |phi_N - phi|^2 phi of x (N,) by 17 points from 0 to 3."""
    t = torch.linspace(0, 3, 17, dtype=x.dtype)
    normal = (-(t**2) / 2).exp()
    phi = torch.exp(1j * t[:, None] * x).mean(1)
    squares = (phi - normal).abs().square() * normal
    return len(x) * 2 * torch.trapezoid(squares, t)


def test_the_loss_is_that_of_the_paper_put_together_by_hand(trainer):
    views = trainer.data[0]
    assert [view.shape[-1] for view in views] == [8, 8, 4]
    large, small = trainer.backbone(torch.cat(views[:2])), trainer.backbone(views[2])
    z = trainer.projector(torch.cat([large, small])).chunk(3)
    target = (z[0] + z[1]) / 2
    alike = sum((x - target).square().mean() for x in z) / 3
    directions = seeding.directions(trainer.step_key(), 5, 7).double()
    shape = [epps_pulley(x @ d) for x in z for d in directions.T]
    expected = 0.7 * alike + 0.3 * torch.stack(shape).mean()
    found = trainer.compute_loss()
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(found["invariance"], alike)


def gradients(trainer, name):
    """Return the projections of each view, and the gradient of a loss there."""
    seen = []
    hook = trainer.projector.register_forward_hook(lambda _, x, z: seen.append(z))
    loss = trainer.compute_loss()[name]
    hook.remove()
    (grad,) = torch.autograd.grad(loss, seen)
    return seen[0].chunk(3), grad.chunk(3)


def test_no_global_view_is_dropped(trainer):  # fault 31
    for name in ("loss", "invariance"):
        _, grads = gradients(trainer, name)
        assert len(grads) == 3 and all(grad.abs().sum() > 0 for grad in grads)


def test_the_target_takes_a_gradient(trainer):  # there is no stopped one
    seen, grads = gradients(trainer, "invariance")
    target = (seen[0] + seen[1]) / 2
    pulled = 2 / (3 * seen[0].numel()) * (seen[2] - target)
    torch.testing.assert_close(grads[2], pulled)
    apart = 2 / (3 * seen[0].numel()) * (seen[0] - target)
    torch.testing.assert_close(grads[0], apart - pulled / 2)


def test_directions_are_unit_and_drawn_anew_each_step(trainer):
    first = seeding.directions(trainer.step_key(), 5, 7)
    assert first.shape == (5, 7)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(7))
    loss = trainer.compute_loss()["loss"]
    assert trainer.compute_loss()["loss"].equal(loss)
    trainer.step = 1
    assert not seeding.directions(trainer.step_key(), 5, 7).isclose(first).any()
    assert trainer.compute_loss()["loss"] != loss


def test_a_single_view_is_refused(config):
    one = f"data.train.dataset.image_transform={VIEW}"
    with pytest.raises(ConfigError, match="views: 1, and LeJEPA needs 2 or more"):
        LeJEPA(config("lejepa", *TINY[:-1], one)).run()
