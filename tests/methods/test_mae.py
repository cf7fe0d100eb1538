"""MAE: what is hidden is neither seen nor forgotten in the loss."""

import pytest
import torch
from torch.nn.functional import fold

from stable_ssl import MAE, ConfigError
from stable_ssl.models import patch_tokens, random_masks

TINY = ["data.batch_size=6", "model.backbone.dim=16", "model.backbone.depth=1"]
TINY += ["model.mask_ratio=0.75"]


@pytest.fixture
def make(config):
    """Return a maker of a tiny MAE in float64 that holds a batch."""
    made = []

    def build(*overrides):
        trainer = MAE(config("mae", *TINY, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double()
        view, labels = next(iter(trainer.train_loader))
        trainer.data = view.double(), labels
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def masks(trainer):
    return random_masks(trainer.row_keys(6), 16, 12)


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_the_loss_is_that_of_the_paper_put_together_by_hand(make, norm_pix, pool):
    trainer = make(f"++model.norm_pix={norm_pix}", f"++model.backbone.pool={pool}")
    view, errors = trainer.data[0], []
    for image, keep in zip(view, masks(trainer)[0].tolist(), strict=True):
        # the decoder sees the class token, and a patch or the mask token in each place
        tokens = patch_tokens(trainer.backbone, image[None], torch.tensor([keep]))
        coded = trainer.narrow(tokens)
        places = [trainer.mask_token[0, 0] for _ in range(16)]
        for place, token in zip(keep, coded[0, 1:], strict=True):
            places[place] = token
        codes = torch.stack(places) + trainer.positions
        decoded = trainer.decoder(torch.cat([coded[:, 0], codes])[None])[0, 1:]
        for place in sorted(set(range(16)) - set(keep)):
            row, column = 2 * (place // 4), 2 * (place % 4)
            pixels = image[0, row : row + 2, column : column + 2].flatten()
            if norm_pix:
                pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            errors.append((trainer.pixels(decoded[place]) - pixels).square().mean())
    assert len(errors) == 6 * 12
    torch.testing.assert_close(trainer.compute_loss(), torch.stack(errors).mean())


def test_the_class_token_is_none_of_the_hidden_patches(make):  # fault 31
    trainer = make()
    keep, mask = masks(trainer)
    assert (mask.sum(1) == 12).all() and keep.shape == (6, 4)
    seen = []
    trainer.backbone.blocks.register_forward_hook(lambda _, x, y: seen.append(y.shape))
    assert trainer.reconstruct(trainer.data[0], keep).shape == (6, 16, 4)
    assert seen == [(6, 1 + 4, 16)]


def test_a_share_of_the_patches_is_rounded_as_the_authors_do(make):
    trainer, seen = make("model.mask_ratio=0.33"), []
    trainer.backbone.blocks.register_forward_hook(lambda _, x, y: seen.append(y.shape))
    trainer.compute_loss()
    assert seen == [(6, 1 + 10, 16)]  # int(16 (1 - 0.33)) are seen


def test_hidden_pixels_do_not_reach_the_encoder(make):
    trainer = make()
    view, (keep, mask) = trainer.data[0], masks(trainer)
    patches = trainer.patches(view)
    other = torch.where(mask[..., None], torch.randn_like(patches), patches)
    other = fold(other.mT, view.shape[2:], 2, stride=2)
    expected = trainer.reconstruct(view, keep)
    torch.testing.assert_close(trainer.reconstruct(other, keep), expected)
    assert not trainer.reconstruct(view + 1, keep).isclose(expected).any()


def test_patches_are_row_by_row(make):
    view = make().data[0]
    for place, (row, column) in {1: (0, 2), 6: (2, 4)}.items():
        patch = view[:, :, row : row + 2, column : column + 2].flatten(1)
        assert make().patches(view)[:, place].equal(patch)


def test_a_patch_holds_its_pixels_in_the_authors_order(make):  # (p, p, C)
    trainer, colours = make(), torch.arange(3 * 64.0).view(1, 3, 8, 8)
    patch = colours[0, :, 2:4, 4:6].permute(1, 2, 0).flatten()
    assert trainer.patches(colours)[0, 6].equal(patch)


def test_a_vit_of_timm_by_name_learns_where_its_patches_are(make):
    spec = "{name: vit_tiny_patch16_224, img_size: 8, patch_size: 2, depth: 1}"
    trainer = make("~model.backbone", f"+model.backbone={spec}")
    trainer.compute_loss().backward()
    assert all(p.grad is not None for p in trainer.backbone.parameters())


def test_masks_are_drawn_anew_each_step_and_alike_for_the_same(make):
    trainer = make()
    first = trainer.compute_loss()
    assert trainer.compute_loss().equal(first)
    trainer.step = 1
    assert not trainer.compute_loss().isclose(first)


def test_the_layers_around_the_decoder_are_drawn_as_its_own(make):
    trainer = make("++model.decoder_dim=64")
    for layer in (trainer.narrow, trainer.pixels):
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()


def test_features_are_of_the_whole_image(make):
    trainer = make()
    expected = patch_tokens(trainer.backbone, trainer.data[0])[:, 0]
    torch.testing.assert_close(trainer(trainer.data[0]), expected)


def test_a_backbone_that_cannot_leave_patches_out_is_refused(config):
    one = "data.train.dataset.image_transform=${data.transforms.view}"
    trainer = MAE(config("base", one))
    with pytest.raises(ConfigError, match="use {name: vit}"):
        trainer.run()
