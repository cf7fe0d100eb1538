import pytest
import torch
from torch import nn

from stable_ssl.config import ConfigError
from stable_ssl.models import backbone, register_modifier
from stable_ssl.models.modifiers import (
    MODIFIERS,
    change_first_convolutional_layer,
    change_last_layer,
    change_last_layer_to_identity,
    modify,
)


class Odd(nn.Module):
    """A network whose classifier is defined first."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        self.conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
        self.hidden = nn.Linear(4, 6)

    def forward(self, x):
        return self.classifier(self.hidden(self.conv(x).mean((2, 3))))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_first_filters_are_kept(channels):
    torch.manual_seed(0)
    model, grey = Odd().double(), torch.randn(2, 1, 6, 6, dtype=torch.float64)
    expected = model(grey.expand(-1, 3, -1, -1))
    change_first_convolutional_layer(model, channels)
    model.double()
    assert model.conv.in_channels == channels and model.conv.padding_mode == "reflect"
    found = model(grey.expand(-1, channels, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_as_many_channels_leave_the_layer_itself():
    model = Odd()
    before = model.conv
    change_first_convolutional_layer(model, 3)
    assert model.conv is before


def test_the_last_layer_is_the_heads_though_defined_first():
    model = Odd()
    change_last_layer(model, 7)
    assert model(torch.randn(2, 3, 6, 6)).shape == (2, 7) and model.dim == 7
    assert model.hidden.out_features == 6
    change_last_layer_to_identity(model)
    assert model(torch.randn(2, 3, 6, 6)).shape == (2, 5) and model.dim == 5


def test_without_a_known_head_the_last_layer_is_the_last_in_definition():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Dropout())
    change_last_layer(model, 7)
    assert model(torch.randn(2, 4)).shape == (2, 7)
    assert isinstance(model[3], nn.Dropout)


@pytest.mark.parametrize(
    "name", ["convnet", "vit", "resnet18", "convnext_tiny", "vit_b_32"]
)
def test_a_backbone_gets_its_layer_where_the_classifier_was(name):
    small = {"image_size": 32} if "vit" in name else {}
    model = backbone({"name": name, **small}).eval()
    x = torch.randn(2, 3, 32, 32)
    dim = model.dim
    with torch.no_grad():
        features = model(x)
        change_last_layer(model, 4)
        linear = [m for m in model.modules() if getattr(m, "out_features", 0) == 4]
        assert len(linear) == 1 and model.dim == 4
        torch.testing.assert_close(model(x), linear[0](features))
        change_last_layer_to_identity(model)
        assert model.dim == dim
        torch.testing.assert_close(model(x), features)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_a_backbone_of_timm(name):
    model = backbone({"name": name, "provider": "timm"}).eval()
    dim = model.dim
    change_last_layer(model, 4)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 4)
    change_last_layer_to_identity(model)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, dim) == (2, model.dim)


def test_a_modifier_of_ones_own(monkeypatch):
    monkeypatch.setattr("stable_ssl.models.modifiers.MODIFIERS", dict(MODIFIERS))

    @register_modifier
    def without_activations(model, kind=nn.ReLU):
        for name, layer in list(model.named_modules()):
            if isinstance(layer, kind):
                model.set_submodule(name, nn.Identity())

    model = backbone({"name": "convnet", "modifiers": {"without_activations": None}})
    assert not [m for m in model.modules() if isinstance(m, nn.ReLU)]


@pytest.mark.parametrize(
    "modifiers, words",
    [
        (["change_last_layer"], "no mapping"),
        ({"change_last_layr": {}}, "did you mean 'change_last_layer'"),
        ({"change_last_layer": {}}, "change_last_layer: missing .*num_outputs"),
        ({"change_last_layer": {"outputs": 3}}, "change_last_layer: "),
        ({"change_last_layer": {"num_outputs": 0}}, "num_outputs=0, expected"),
        (
            {"change_first_convolutional_layer": {"num_input_channels": "x"}},
            "num_input_channels=x, expected",
        ),
    ],
)
def test_wrong_modifiers_are_refused_in_words(modifiers, words):
    with pytest.raises(ConfigError, match=words):
        modify(Odd(), modifiers)


def test_errors_name_the_model():
    with pytest.raises(ConfigError, match="ReLU has no linear layer"):
        change_last_layer(nn.ReLU(), 3)
    with pytest.raises(ConfigError, match="Linear has no convolution"):
        change_first_convolutional_layer(nn.Linear(2, 2), 3)
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ConfigError, match="Sequential, 0, has 2 groups"):
        change_first_convolutional_layer(grouped, 3)
