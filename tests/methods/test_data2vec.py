"""data2vec: a teacher's last layers, predicted where a student sees nothing."""

import pytest
import torch
from torch.nn.functional import fold, layer_norm, unfold

from stable_ssl import ConfigError, Data2Vec

TINY = [
    "data.batch_size=6",
    "model.backbone.dim=8",
    "model.backbone.depth=3",
    "model.backbone.heads=2",
    "model.average_blocks=2",
]


@pytest.fixture
def make(config):
    """Return a maker of a tiny data2vec in float64 that holds a batch."""
    made = []

    def build(*overrides):
        trainer = Data2Vec(config("data2vec", *TINY, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double().train()
        views, labels = next(iter(trainer.train_loader))
        trainer.data = views.double(), labels
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def test_targets_are_the_mean_of_the_last_layers_each_normalised(make):
    trainer = make()
    outputs = []
    for block in trainer.teacher.module.blocks:
        block.register_forward_hook(lambda _, x, y: outputs.append(y[:, 1:]))
    found = trainer.targets(trainer.data[0])
    layers = [layer_norm(x, (8,)) for x in outputs[1:]]
    expected = layer_norm((layers[0] + layers[1]) / 2, (8,))
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


def test_the_student_sees_nothing_of_hidden_patches(make):
    trainer = make()
    view, mask = trainer.data[0], trainer.masks(6)
    assert (mask.sum(1) <= 9).all() and mask.any(1).all()
    predicted = []
    trainer.head.register_forward_hook(lambda _, x, y: predicted.append(y))
    first = trainer.compute_loss()
    patches = unfold(view, 2, stride=2).mT
    other = torch.where(mask[..., None], torch.randn_like(patches), patches)
    trainer.data = fold(other.mT, view.shape[2:], 2, stride=2), None
    assert not trainer.compute_loss().isclose(first)
    torch.testing.assert_close(predicted[0], predicted[1])


def test_more_layers_than_there_are_are_refused(make):
    with pytest.raises(ConfigError, match="average_blocks=4, and the backbone has 3"):
        make("model.average_blocks=4")
