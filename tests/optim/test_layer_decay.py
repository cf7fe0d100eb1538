import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from stable_ssl.config import ConfigError, Optim
from stable_ssl.models import backbone
from stable_ssl.optim import build_optimizer
from stable_ssl.optim.layer_decay import layer_scales


def classifier(spec):
    model = nn.Module()
    model.backbone = backbone(spec)
    model.classifier = nn.Linear(model.backbone.dim, 10)
    return model


def rates(model, **words):
    """Return {parameter name: learning rate}."""
    optimizer = build_optimizer(model.named_parameters(), Optim(lr=1.0, **words))
    lr = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: lr[p] for name, p in model.named_parameters()}


def test_a_vit_of_beit_has_its_rates():
    vit = {"name": "vit", "image_size": 8, "patch_size": 4, "dim": 8, "heads": 2}
    found = rates(classifier({**vit, "depth": 2}), layer_decay=0.5)
    assert found["classifier.weight"] == found["classifier.bias"] == 1
    assert found["backbone.norm.weight"] == 1
    assert found["backbone.blocks.1.mlp.fc1.bias"] == 0.5
    assert found["backbone.blocks.0.mlp.fc1.weight"] == 0.25
    assert (
        found["backbone.patch_embed.proj.weight"]
        == found["backbone.cls_token"]
        == 0.125
    )


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_timm_gives_its_models_the_same_rates(name):
    model = timm.create_model(name, num_classes=10)
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scale = {p: group["lr_scale"] for group in groups for p in group["params"]}
    expected = {n: scale[p] for n, p in model.named_parameters()}
    if "norm.weight" in expected:  # BEiT's last norm is above the last block
        expected["norm.weight"] = expected["norm.bias"] = 1
    assert rates(model, layer_decay=0.5) == expected


def test_a_resnet_has_a_layer_a_block():
    found = rates(classifier({"name": "resnet18", "stem": "cifar"}), layer_decay=0.9)
    assert found["classifier.weight"] == 1
    assert found["backbone.layer4.1.conv2.weight"] == pytest.approx(0.9)
    assert found["backbone.layer1.0.bn1.weight"] == pytest.approx(0.9**8)
    assert found["backbone.conv1.weight"] == pytest.approx(0.9**9)


def test_blocks_are_found_where_their_number_ends_a_name():
    names = ["conv_proj.w", "encoder_layer_0.mlp.0.w", "encoder_layer_1.proj.w", "ln.w"]
    parameters = [(name, torch.ones(1, 1)) for name in names]
    assert layer_scales(parameters, 0.5) == [0.125, 0.25, 0.5, 1]


def test_a_numbered_norm_goes_with_its_convolution():
    found = rates(classifier("convnet"), layer_decay=0.5)
    assert found["backbone.0.weight"] == found["backbone.2.weight"] == 0.0625
    assert found["backbone.4.weight"] == 0.125 and found["classifier.weight"] == 1


def test_groups_and_layers_multiply():
    model = classifier("convnet")
    groups = [{"pattern": "^backbone", "lr": 0.1}]
    plain, layered = rates(model, groups=groups), rates(model, layer_decay=0.5)
    both = rates(model, groups=groups, layer_decay=0.5)
    assert both == {n: pytest.approx(plain[n] * layered[n]) for n in plain}


def test_without_decay_the_groups_are_those_there_were():
    model = classifier("convnet")
    optimizer = build_optimizer(model.named_parameters(), Optim(weight_decay=0.1))
    assert len(optimizer.param_groups) == 2


def test_a_network_without_numbered_layers_is_refused():
    model = nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)})
    with pytest.raises(ConfigError, match="finds no numbered layers .* one.weight"):
        rates(model, layer_decay=0.5)


def test_lower_layers_move_less():
    torch.manual_seed(0)
    model = classifier("convnet")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    words = Optim(lr=1e-3, layer_decay=0.5, optimizer="adamw", weight_decay=0.0)
    words.momentum = Optim.momentum
    optimizer = build_optimizer(model.named_parameters(), words)
    model.classifier(model.backbone(torch.randn(4, 3, 8, 8))).square().sum().backward()
    optimizer.step()
    moved = {n: (p - before[n]).abs().max() for n, p in model.named_parameters()}
    assert moved["backbone.0.weight"] < 0.1 * moved["classifier.weight"]
