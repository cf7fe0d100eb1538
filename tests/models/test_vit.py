import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stable_ssl.config import ConfigError
from stable_ssl.models import Block, Blocks, ViT, positions, take


def small(**options):
    torch.manual_seed(0)
    options = {"image_size": 8, "patch_size": 2, "dim": 8, "depth": 2, **options}
    return ViT(**{"heads": 2, **options}).double()


def images(n=2, size=8):
    return torch.randn(n, 3, size, size, dtype=torch.float64)


def test_features_and_tokens():
    vit, x = small(), images()
    assert vit.patches == 16 and vit.dim == 8
    tokens = vit.tokens(x)
    assert tokens.shape == (2, 17, 8) and vit.embed(x).shape == (2, 16, 8)
    assert vit(x).equal(tokens[:, 0])
    torch.testing.assert_close(small(pool="mean")(x), tokens[:, 1:].mean(1))
    without = small(class_token=False)
    assert without.tokens(x).shape == (2, 16, 8)
    torch.testing.assert_close(without(x), without.tokens(x).mean(1))
    assert "class_token" not in without.state_dict()


def test_a_block_is_attention_and_a_perceptron_with_norms_before():
    block = Block(6, 2, mlp_ratio=3).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    q, k, v = block.qkv(F.layer_norm(x, (6,), eps=1e-6)).split(6, dim=2)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(3)
        heads.append(scores.softmax(2) @ v[..., part])
    y = x + block.proj(torch.cat(heads, 2))
    expected = y + block.mlp(F.layer_norm(y, (6,), eps=1e-6))
    torch.testing.assert_close(block(x), expected)
    assert block.mlp[0].out_features == 18


def test_blocks_end_with_a_norm():
    blocks = Blocks(6, 3, 2)
    assert [type(b) for b in blocks] == [Block, Block, Block, nn.LayerNorm]
    assert (
        blocks(torch.randn(2, 5, 6))
        .std(dim=2, correction=0)
        .allclose(torch.ones(2, 5), atol=1e-3)
    )


def test_hidden_patches_have_no_influence():
    vit, x = small(), images()
    keep = torch.tensor([[0, 5, 15], [2, 3, 8]])
    tokens = vit.tokens(x, keep)
    assert tokens.shape == (2, 4, 8) and vit(x, keep).equal(tokens[:, 0])
    patches = vit.patchify(x)
    seen = torch.zeros(2, 16, 1, dtype=torch.bool).scatter_(1, keep[..., None], True)
    other = vit.unpatchify(torch.where(seen, patches, torch.randn_like(patches)))
    torch.testing.assert_close(vit.tokens(other, keep), tokens)
    moved = vit.unpatchify(torch.where(seen, patches + 1, patches))
    assert not vit.tokens(moved, keep).isclose(tokens).any()


def test_keeping_all_patches_in_order_is_keeping_none_out():
    vit, x = small(), images()
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(vit.tokens(x, everything), vit.tokens(x))
    order = torch.randperm(16)  # positions go with their patches
    shuffled = vit.tokens(x, order.expand(2, -1))
    torch.testing.assert_close(shuffled[:, 1:], vit.tokens(x)[:, 1:][:, order])


def test_patches_are_row_by_row_and_go_back():
    vit, x = small(), images()
    patches = vit.patchify(x)
    assert patches.shape == (2, 16, 12)
    assert patches[1, 6].equal(x[1, :, 2:4, 4:6].permute(1, 2, 0).flatten())
    assert vit.unpatchify(patches).equal(x)
    last = x.clone()
    last[:, :, 2:4, 4:6] += 1  # patch 6 here is token 6 of the network
    changed = (vit.embed(last) - vit.embed(x)).abs().sum((0, 2)) > 0
    assert changed.nonzero().tolist() == [[6]]


def test_positions_are_the_formula_of_the_paper_in_two_dimensions():
    found = positions(3, 8)
    for row in range(3):
        for column in range(3):
            angles = [[p * 10_000 ** (-i / 2) for i in (0, 1)] for p in (row, column)]
            expected = [
                f(a) for pair in angles for f in (math.sin, math.cos) for a in pair
            ]
            torch.testing.assert_close(found[3 * row + column], torch.tensor(expected))
    assert found.unique(dim=0).shape == (9, 8)


def test_an_image_of_another_size_spans_the_same_positions():
    assert positions(4, 8, 4, 4).equal(positions(4, 8))
    where = positions(4, 8, 2, 8)
    assert where.shape == (16, 8)
    # a row of the coarser grid lies half-way between two of the finer one
    expected = torch.tensor([0.5]).sin()
    torch.testing.assert_close(where[:8, 0], expected.expand(8))
    vit = small()
    assert vit(images(size=4)).shape == (2, 8)
    assert vit.embed(torch.randn(2, 3, 4, 12).double()).shape == (2, 12, 8)


def test_positions_are_not_trained_nor_saved():
    vit = small()
    assert "positions" not in vit.state_dict()
    assert "positions" not in dict(vit.named_parameters())


def test_every_weight_receives_a_gradient():
    for options in ({}, {"pool": "mean"}, {"class_token": False}):
        vit = small(**options)
        vit(images(), torch.tensor([[0, 3], [7, 1]])).square().sum().backward()
        assert all(p.grad is not None for p in vit.parameters())


def test_take():
    x = torch.arange(24.0).view(2, 4, 3)
    found = take(x, torch.tensor([[3, 0], [1, 1]]))
    assert found.equal(torch.stack([x[0, [3, 0]], x[1, [1, 1]]]))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"patch_size": 3}, "image_size=8 is not divisible by patch_size=3"),
        ({"heads": 3}, "dim=8 is not divisible by heads=3"),
        ({"dim": 6}, "multiple of 4"),
        ({"pool": "max"}, "pool=max"),
        ({"pool": "token", "class_token": False}, "class_token: true"),
    ],
)
def test_wrong_sizes_are_refused_in_words(options, words):
    with pytest.raises(ConfigError, match=words):
        small(**options)


def test_images_that_do_not_divide_are_refused_in_words():
    for call in (ViT.embed, ViT.patchify):
        with pytest.raises(ValueError, match="multiples of 2"):
            call(small(), images(size=7))
