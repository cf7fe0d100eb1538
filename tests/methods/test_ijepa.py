"""I-JEPA: blocks of features predicted from a context that has none of them."""

import pytest
import torch
from torch.nn.functional import fold, unfold

from stable_ssl import IJEPA, ConfigError
from stable_ssl.models import patch_tokens

TINY = [
    "data.batch_size=6",
    "model.backbone.dim=16",
    "model.backbone.depth=1",
    "model.predictor_dim=8",
    "model.predictor_heads=2",
    "model.predictor_depth=1",
]


@pytest.fixture
def make(config):
    """Return a maker of a tiny I-JEPA in float64 that holds a batch."""
    made = []

    def build(*overrides):
        trainer = IJEPA(config("ijepa", *TINY, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double()
        view, labels = next(iter(trainer.train_loader))
        trainer.data = view.double(), labels
        with torch.no_grad():  # the teacher is another network than the student
            for parameter in trainer.teacher.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def test_the_loss_is_that_of_the_paper_put_together_by_hand(make):
    trainer = make()
    view, losses = trainer.data[0], []
    for image, seen, blocks in zip(view, *trainer.masks(6), strict=True):
        tokens = patch_tokens(trainer.teacher.module, image[None])[0]
        centred = tokens - tokens.mean(1, keepdim=True)
        targets = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        coded = patch_tokens(trainer.backbone, image[None], seen[None])[0]
        known = trainer.narrow(coded) + trainer.positions[seen]
        for block in blocks:  # each is predicted without knowing of the others
            asked = trainer.mask_token[0] + trainer.positions[block]
            told = trainer.predictor(torch.cat([known, asked])[None])[0]
            gap = (trainer.widen(told[len(seen) :]) - targets[block]).abs()
            losses.append(torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean())
    assert len(losses) == 6 * 2
    torch.testing.assert_close(trainer.compute_loss(), torch.stack(losses).mean())


def test_no_gradient_reaches_the_target_encoder(make):
    trainer = make()
    trainer.compute_loss().backward()
    assert all(p.grad is None for p in trainer.teacher.parameters())
    assert all(p.grad is not None for p in trainer.backbone.parameters())


def test_the_target_encoder_follows_the_context_encoder(make):
    trainer = make("model.momentum=0.8", "++model.final_momentum=0.8")
    trainer.train_step(trainer.data)
    pairs = list(
        zip(trainer.teacher.parameters(), trainer.backbone.parameters(), strict=True)
    )
    expected = [0.8 * t + 0.2 * s for t, s in pairs]
    trainer.after_train_step()
    for (found, _), value in zip(pairs, expected, strict=True):
        torch.testing.assert_close(found.detach(), value)


def test_the_predictor_sees_nothing_of_its_targets(make):
    trainer = make()
    view, (context, blocks) = trainer.data[0], trainer.masks(6)
    patches = unfold(view, 2, stride=2).mT
    hidden = torch.zeros(6, 16, dtype=torch.bool).scatter_(1, blocks.flatten(1), True)
    assert not hidden.gather(1, context).any()
    other = torch.where(hidden[..., None], torch.randn_like(patches), patches)
    other = fold(other.mT, view.shape[2:], 2, stride=2)
    expected = trainer.predict_targets(view, context, blocks)
    found = trainer.predict_targets(other, context, blocks)
    torch.testing.assert_close(found, expected)
    targets = trainer.target_features(view, blocks)
    assert not trainer.target_features(other, blocks).isclose(targets).all()


@pytest.mark.parametrize("how", ["ijepa", "mae"])
def test_the_predictor_is_drawn_as_told(make, how):
    trainer = make(f"model.weight_init={how}", "model.predictor_dim=64")
    for layer in (trainer.narrow, trainer.widen, trainer.predictor[0].mlp.fc1):
        uniform = (2 / sum(layer.weight.shape)) ** 0.5  # its deviation
        expected = 0.02 if how == "ijepa" else uniform
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert not layer.bias.any()


def test_masks_are_drawn_anew_each_step_and_alike_for_the_same(make):
    trainer = make()
    first = trainer.compute_loss()
    assert trainer.compute_loss().equal(first)
    trainer.step = 1
    assert not trainer.compute_loss().isclose(first)


@pytest.mark.parametrize("name", ["convnet", "vit"])  # the vit has a class token
def test_a_backbone_that_is_not_patches_alone_is_refused(config, name):
    one = "data.train.dataset.image_transform=${data.transforms.view}"
    with pytest.raises(ConfigError, match="use {name: vit, class_token: false}"):
        IJEPA(config("base", one, f"model.backbone.name={name}")).run()


def test_the_context_is_cut_to_the_shortest_of_the_whole_step(make):
    trainer = make()
    whole = trainer.masks(24)
    trainer.micro_batches, trainer.world_size = 2, 2
    parts = []
    for trainer.micro_batch in (0, 1):
        for trainer.rank in (0, 1):
            parts.append(trainer.masks(6))
    trainer.rank = 0
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.cat(found).equal(expected)
