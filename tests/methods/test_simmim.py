"""SimMIM: pixels of hidden squares, predicted without seeing them."""

import pytest
import torch
from torch.nn.functional import fold, unfold

from stable_ssl import ConfigError, SimMIM

TINY = [
    "data.batch_size=6",
    "model.backbone.dim=8",
    "model.backbone.depth=1",
    "model.backbone.heads=2",
]


@pytest.fixture
def make(config):
    """Return a maker of a tiny SimMIM in float64 that holds a batch."""
    made = []

    def build(*overrides):
        trainer = SimMIM(config("simmim", *TINY, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double().train()
        views, labels = next(iter(trainer.train_loader))
        trainer.data = views.double(), labels
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def test_hidden_pixels_reach_the_target_alone(make):
    trainer = make("model.mask_side=2")
    view, mask = trainer.data[0], trainer.masks(6)
    predicted = []
    trainer.pixels.register_forward_hook(lambda _, x, y: predicted.append(y))
    first = trainer.compute_loss()
    patches = unfold(view, 2, stride=2).mT
    other = torch.where(mask[..., None], patches + 10, patches)
    trainer.data = fold(other.mT, view.shape[2:], 2, stride=2), None
    second = trainer.compute_loss()
    torch.testing.assert_close(predicted[0], predicted[1])
    assert second > first + 5


def test_squares_are_hidden_and_as_many_of_each_image(make):
    mask = make("model.mask_side=2").masks(6).view(6, 2, 2, 2, 2)
    assert (mask == mask[:, :, :1, :, :1]).all()  # rows and columns within a square
    assert (mask[:, :, 0, :, 0].sum((1, 2)) == 3).all()  # 0.6 of four, rounded up


def test_the_count_of_hidden_squares_is_not_rounded_twice(make):
    trainer = make("model.mask_side=1")
    trainer.backbone.patch_embed.grid_size = 6, 6
    assert (trainer.masks(6).sum(1) == 22).all()  # 0.6 of 36, rounded up


def test_squares_that_do_not_fit_are_refused(make):
    with pytest.raises(ConfigError, match="mask_side=3: the image has a grid of"):
        make("model.mask_side=3")
