import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import nn

from stable_ssl.config import ConfigError
from stable_ssl.models import draw_weights, sincos_positions, transformer_blocks
from stable_ssl.models.vit import vit


def small(**options):
    torch.manual_seed(0)
    options = {"image_size": 8, "patch_size": 2, "dim": 8, "depth": 2, **options}
    return vit(**{"heads": 2, **options}).double()


def images(n=2, size=8):
    return torch.randn(n, 3, size, size, dtype=torch.float64)


def test_it_is_timms_with_the_arguments_in_its_words():
    model = small(mlp_ratio=2, pool="mean", reg_tokens=1)
    arguments = {"img_size": 8, "patch_size": 2, "embed_dim": 8, "num_heads": 2}
    same = {"no_embed_class": True, "fc_norm": False, "global_pool": "avg"}
    given = {"depth": 2, "mlp_ratio": 2, "reg_tokens": 1, "num_classes": 0}
    plain = VisionTransformer(**arguments, **same, **given).double()
    plain.load_state_dict(model.state_dict())
    x = images()
    assert plain(x).equal(model(x)) and model(x).shape == (2, 8)


def test_features_are_the_class_token_or_the_mean_patch():
    model, x = small(), images()
    tokens = model.forward_features(x)
    assert tokens.shape == (2, 17, 8) and model(x).equal(tokens[:, 0])
    torch.testing.assert_close(small(pool="mean")(x), tokens[:, 1:].mean(1))
    without = small(class_token=False)
    assert without.forward_features(x).shape == (2, 16, 8)
    torch.testing.assert_close(without(x), without.forward_features(x).mean(1))
    assert "cls_token" not in without.state_dict()


def test_tokens_leave_the_blocks_normalised_whatever_the_pool():
    for pool in ("token", "mean"):
        tokens = small(pool=pool).forward_features(images())
        deviation = tokens.std(dim=2, correction=0)
        torch.testing.assert_close(
            deviation, torch.ones_like(deviation), atol=1e-3, rtol=0
        )


def test_positions_are_fixed_and_the_class_token_has_none():
    model, x = small(), images()
    assert model.pos_embed[0].equal(sincos_positions((4, 4), 8).double())
    assert "pos_embed" not in dict(model.named_parameters())
    seen = []
    model.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(x)
    assert seen[0][:, 0].equal(model.cls_token[:, 0].expand(2, -1))
    patches = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(seen[0][:, 1:], patches + model.pos_embed)


def test_positions_are_the_formula_of_the_paper_in_two_dimensions():
    found = sincos_positions((2, 3), 8)
    for row in range(2):
        for column in range(3):
            expected = [
                f(place * 10_000 ** (-i / 2))
                for place in (column, row)  # as the authors of MAE have it
                for f in (math.sin, math.cos)
                for i in (0, 1)
            ]
            torch.testing.assert_close(found[3 * row + column], torch.tensor(expected))
    assert found.unique(dim=0).shape == (6, 8)


def test_an_image_of_another_size_spans_the_same_positions():
    model, seen = small(), []
    model.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert model(images(size=4)).shape == (2, 8)
    assert model(torch.randn(2, 3, 4, 12).double()).shape == (2, 8)
    wide = torch.zeros(1, 3, 8, 4).double()  # no patch has anything but its position
    nn.init.zeros_(model.patch_embed.proj.bias)
    model(wide)
    codes = seen[-1][0, 1:].view(4, 2, 8)
    whole = model.pos_embed.view(4, 4, 8)
    expected = F.interpolate(
        whole.permute(2, 0, 1)[None].float(),
        size=(4, 2),
        mode="bicubic",
        antialias=True,
    )
    torch.testing.assert_close(codes, expected[0].permute(1, 2, 0).double())


def test_initial_weights_are_a_function_of_the_seed_and_nothing_else_is_drawn():
    first, second = small(), small()
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(a.equal(b) for a, b in pairs)
    state = torch.get_rng_state()
    first.train()(images().clone())
    torch.set_rng_state(state)
    x = images()
    after = torch.get_rng_state()
    first(x)
    assert torch.get_rng_state().equal(after)


@pytest.mark.parametrize("how", ["mae", "ijepa"])
def test_initial_weights_are_drawn_as_the_authors_do(how):
    model = small(weight_init=how, dim=64, reg_tokens=40).float()
    draw_weights(how, blocks := transformer_blocks(64, 2, 2))
    for name, p in [*model.named_parameters(), *blocks.named_parameters()]:
        if p.ndim > 1 and "token" not in name:
            weight = p.detach().flatten(1)  # of a patch embedding, too
            bound = math.sqrt(6 / sum(weight.shape))
            std = bound / math.sqrt(3) if how == "mae" else 0.02
            assert weight.std().item() == pytest.approx(std, rel=0.1), name
            largest = weight.abs().max()
            assert (largest <= bound) if how == "mae" else (largest > 2.5 * std)
        elif name.endswith("bias") and (how, name) != ("mae", "patch_embed.proj.bias"):
            assert not p.any(), name
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.4)
    assert model.reg_token.std().item() == pytest.approx(0.02, rel=0.1)
    # the authors leave the bias of this layer as torch draws it
    assert bool(model.patch_embed.proj.bias.any()) == (how == "mae")


def test_every_weight_receives_a_gradient():
    for options in ({}, {"pool": "mean"}, {"class_token": False}):
        model = small(**options)
        model(images()).square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())


def test_a_block_is_attention_and_a_perceptron_with_norms_before():
    blocks = transformer_blocks(8, 1, 2).double()
    block = blocks[0]
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = block.attn.qkv(F.layer_norm(x, (8,), eps=1e-6)).split(8, dim=2)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(4)
        heads.append(scores.softmax(2) @ v[..., part])
    y = x + block.attn.proj(torch.cat(heads, 2))
    hidden = F.gelu(block.mlp.fc1(F.layer_norm(y, (8,), eps=1e-6)))
    expected = y + block.mlp.fc2(hidden)
    torch.testing.assert_close(block(x), expected)
    torch.testing.assert_close(blocks(x), F.layer_norm(expected, (8,), eps=1e-6))
    assert block.mlp.fc1.out_features == 32


def test_blocks_end_with_a_norm_and_begin_without_bias():
    blocks = transformer_blocks(8, 3, 2)
    assert [type(b) for b in blocks] == [Block, Block, Block, LayerNorm]
    linear = [m for m in blocks.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 3 * 4 and not any(m.bias.any() for m in linear)
    bound = math.sqrt(6 / (8 + 24))  # of Glorot's uniform distribution
    assert 0.9 * bound < blocks[0].attn.qkv.weight.abs().max() <= bound


@pytest.mark.parametrize(
    "options, words",
    [
        ({"patch_size": 3}, "image_size=8 is not divisible by patch_size=3"),
        ({"heads": 3}, "dim=8, expected .* multiple of 4, .* and of heads=3"),
        ({"dim": 6}, "dim=6, expected a multiple of 4"),
    ],
)
def test_wrong_sizes_are_refused_in_words(options, words):
    with pytest.raises(ConfigError, match=words):
        small(**options)


def test_a_decoder_of_a_wrong_width_is_refused_in_words():
    for dim, heads in ((8, 3), (6, 2)):
        with pytest.raises(ConfigError, match=f"dim={dim}, expected a multiple of 4"):
            transformer_blocks(dim, 1, heads)


def test_images_that_do_not_divide_are_refused_in_words():
    with pytest.raises(AssertionError, match=r"\(7\) should be divisible by patch"):
        small()(images(size=7))
