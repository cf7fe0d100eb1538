"""MSN: what its anchors see, and who learns from whom."""

import pytest
import torch
from torch.nn.functional import fold, unfold

from stable_ssl import MSN, losses, seeding
from stable_ssl.models import random_masks

TINY = [
    "data.batch_size=6",
    "model.backbone.dim=8",
    "model.backbone.depth=1",
    "model.backbone.heads=2",
    "model.projector=[8,8,6]",
    "model.prototypes=5",
]


@pytest.fixture
def make(config):
    """Return a maker of a tiny MSN in float64 that holds a batch."""
    made = []

    def build(*overrides):
        trainer = MSN(config("msn", *TINY, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double().train()
        views, labels = next(iter(trainer.train_loader))
        trainer.data = [view.double() for view in views], labels
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def test_a_masked_view_is_not_seen_where_patches_are_left_out(make):
    trainer = make("model.mask_ratio=0.3")
    view = trainer.data[0][1]
    keys = seeding.fold_in(trainer.row_keys(6), 0)
    _, mask = random_masks(keys, 16, 5)  # 0.3 of 16, rounded up
    patches = unfold(view, 2, stride=2).mT
    other = torch.where(mask[..., None], torch.randn_like(patches), patches)
    other = fold(other.mT, view.shape[2:], 2, stride=2)
    expected = trainer.visible(view, 0)
    torch.testing.assert_close(trainer.visible(other, 0), expected)
    assert not trainer.visible(view, 1).isclose(expected).all()


def test_anchors_predict_the_teachers_view(make):
    trainer = make()
    target, large, small = trainer.data[0]
    assert [x.shape[-1] for x in (target, large, small)] == [8, 8, 6]
    found = trainer.compute_loss()["loss"]
    anchors = [
        trainer.prototypes(torch.nn.functional.normalize(trainer.projector(x), dim=1))
        for x in (trainer.visible(large, 0), trainer.backbone(small))
    ]
    z = torch.nn.functional.normalize(trainer.teacher.module(target), dim=1)
    sharpening = trainer.config.model.sharpening
    expected = losses.msn(anchors, trainer.prototypes(z), sharpening=sharpening)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad is None for p in trainer.teacher.parameters())
    assert all(p.grad is not None for p in trainer.student.parameters())
    assert trainer.prototypes.weight.grad.abs().sum() > 0
