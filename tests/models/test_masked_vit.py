import pytest
import torch
from torch.nn.functional import fold, unfold

from stable_ssl.config import ConfigError
from stable_ssl.models import backbone, check_maskable, gather_patches, patch_tokens

OWN = {"name": "vit", "image_size": 8, "patch_size": 2, "dim": 8, "depth": 2}
OWN["heads"] = 2
TIMMS = {"name": "vit_tiny_patch16_224", "img_size": 64, "depth": 2}
KINDS = {
    "own": OWN,
    "own without class token": {**OWN, "class_token": False},
    "timm's": TIMMS,
    "timm's with registers and a norm before": {
        **TIMMS,
        "reg_tokens": 3,
        "pre_norm": True,
        "dynamic_img_size": True,
    },
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def model(request):
    torch.manual_seed(0)
    model = backbone(request.param).double()
    check_maskable(model)
    return model


def images(model):
    return torch.randn(2, 3, *model.patch_embed.img_size, dtype=torch.float64)


KEEP = torch.tensor([[0, 5, 15], [2, 3, 8]])


def test_keeping_all_patches_in_order_is_a_plain_forward(model):
    x, first = images(model), model.num_prefix_tokens
    plain = model.forward_features(x)
    assert patch_tokens(model, x).equal(plain)
    everything = torch.arange(16).expand(2, -1)
    assert patch_tokens(model, x, everything).equal(plain)
    order = torch.randperm(16)  # positions go with their patches
    shuffled = patch_tokens(model, x, order.expand(2, -1))
    torch.testing.assert_close(shuffled[:, :first], plain[:, :first])
    torch.testing.assert_close(shuffled[:, first:], plain[:, first:][:, order])


def test_the_blocks_see_the_kept_patches_with_their_positions(model):
    x, first = images(model), model.num_prefix_tokens
    before = []
    with model.patch_drop.register_forward_hook(lambda m, i, o: before.append(o)):
        model(x)
    prefix, patches = before[0][:, :first], before[0][:, first:]
    kept = torch.stack([patches[i, index] for i, index in enumerate(KEEP)])
    expected = model.norm(model.blocks(model.norm_pre(torch.cat([prefix, kept], 1))))
    found = patch_tokens(model, x, KEEP)
    assert found.shape == (2, first + 3, model.dim) and found.equal(expected)
    embedded = unfold(x, (size := model.patch_embed.patch_size), stride=size).mT
    embedded = embedded @ model.patch_embed.proj.weight.flatten(1).T
    if model.patch_embed.proj.bias is not None:
        embedded = embedded + model.patch_embed.proj.bias
    torch.testing.assert_close(patches, embedded + model.pos_embed[:, -16:])


def test_hidden_patches_have_no_influence(model):
    x, size = images(model), model.patch_embed.patch_size
    tokens = patch_tokens(model, x, KEEP)
    patches = unfold(x, size, stride=size)
    seen = torch.zeros(2, 1, 16, dtype=torch.bool).scatter_(2, KEEP[:, None], True)

    def image(patches):
        return fold(patches, x.shape[2:], size, stride=size)

    other = image(torch.where(seen, patches, torch.randn_like(patches)))
    torch.testing.assert_close(patch_tokens(model, other, KEEP), tokens)
    moved = image(torch.where(seen, patches + 1, patches))
    assert not patch_tokens(model, moved, KEEP).isclose(tokens).all(2).any()


def test_nothing_is_drawn(model):
    x = images(model)
    state = torch.get_rng_state()
    patch_tokens(model.train(), x, KEEP)
    assert torch.get_rng_state().equal(state)


def test_gradients_are_those_of_the_kept_patches(model):
    x = images(model).requires_grad_()
    patch_tokens(model, x, KEEP).square().sum().backward()
    size = model.patch_embed.patch_size
    moved = unfold(x.grad, size, stride=size).abs().sum(1) > 0
    assert [row.nonzero().flatten().tolist() for row in moved] == KEEP.tolist()


def test_it_compiles_as_one_graph():
    model = backbone(OWN).double()
    x = images(model)
    compiled = torch.compile(patch_tokens, backend="eager", fullgraph=True)
    for keep in (KEEP, KEEP.flip(1)):
        torch.testing.assert_close(
            compiled(model, x, keep), patch_tokens(model, x, keep)
        )


def test_gather_patches():
    x = torch.arange(24.0).view(2, 4, 3)
    found = gather_patches(x, torch.tensor([[3, 0], [1, 1]]))
    assert found.equal(torch.stack([x[0, [3, 0]], x[1, [1, 1]]]))


@pytest.mark.parametrize(
    "spec, words",
    [
        ("convnet", r"\.Sequential is no VisionTransformer of timm.* use {name: vit},"),
        ("resnet18", "ResNet is no VisionTransformer of timm"),
        ("vit_b_32", "torchvision.*VisionTransformer is no VisionTransformer of timm"),
        ({"name": "eva02_tiny_patch14_224", "depth": 1}, "Eva is no"),
        (
            {"name": "vit_tiny_r_s16_p8_224", "depth": 1},
            "its HybridEmbed mixes pixels of patches",
        ),
        ({**OWN, "patch_drop_rate": 0.5}, "its patch_drop_rate leaves out others"),
    ],
)
def test_other_backbones_are_refused_by_name(spec, words):
    with pytest.raises(ConfigError, match=words):
        check_maskable(backbone(spec))


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "1 of its tokens .* use {name: vit, class_token: false}"),
        ({"class_token": False, "reg_tokens": 2}, "2 of its tokens are no patches"),
    ],
)
def test_other_tokens_than_patches_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        check_maskable(backbone(OWN, **options), only_patches=True)


def test_a_grid_that_is_no_square_is_refused():
    wide = {**TIMMS, "img_size": [32, 64], "class_token": False, "global_pool": "avg"}
    check_maskable(backbone(wide))
    with pytest.raises(ConfigError, match=r"\(2, 4\), are no square"):
        check_maskable(backbone(wide), only_patches=True)
