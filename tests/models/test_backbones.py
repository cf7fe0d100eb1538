import pytest
import torch
from omegaconf import OmegaConf
from timm.models import VisionTransformer
from torch import nn

from stable_ssl.config import ConfigError
from stable_ssl.methods import SimCLR
from stable_ssl.models import backbone


def features(model, channels=3, size=32):
    with torch.no_grad():
        return model.eval()(torch.randn(2, channels, size, size))


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture
def small_weights(monkeypatch):
    """Stand in for a download: the 'pretrained' weights are drawn from seed 0."""
    import torchvision

    get_model = torchvision.models.get_model

    def drawn(name, weights, **options):
        assert weights == "DEFAULT"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return get_model(name, weights=None, **options)

    monkeypatch.setattr(torchvision.models, "get_model", drawn)


@pytest.mark.parametrize("size", [8, 28, 32])
def test_convnet_suits_small_images(size):
    model = backbone("convnet", in_channels=1)
    assert features(model, 1, size).shape == (2, model.dim)
    assert 1e5 < count(model) < 3e5


def test_convnet_width():
    assert backbone({"name": "convnet", "width": 8}).dim == 32


@pytest.mark.parametrize(
    "name, dim",
    [
        ("resnet18", 512),
        ("ResNet18", 512),
        ("mobilenet_v3_small", 576),  # its classifier has two linear layers
        ("shufflenet_v2_x0_5", 1024),
        ("convnext_tiny", 768),  # its classifier normalises and flattens
    ],
)
def test_torchvision_gives_pooled_features(name, dim):
    model = backbone(name, provider="torchvision")
    assert model.dim == dim
    assert features(model, size=64).shape == (2, dim)
    heads = [m for m in model.modules() if getattr(m, "out_features", None) == 1000]
    assert not heads


def test_an_inception_trains_without_its_auxiliary_classifiers():
    model = backbone({"name": "googlenet", "init_weights": False})
    assert model.dim == 1024
    assert model.train()(torch.randn(2, 3, 64, 64)).shape == (2, 1024)
    assert not [name for name, _ in model.named_parameters() if "aux" in name]


def test_image_size_reaches_a_transformer():
    model = backbone({"name": "vit_b_32", "image_size": 32})
    assert features(model).shape == (2, 768) == (2, model.dim)


def test_vit():
    spec = {"name": "vit", "image_size": 8, "patch_size": 4, "dim": 12, "depth": 1}
    model = backbone(spec, in_channels=1, pool="mean")
    assert features(model, 1, 8).shape == (2, 12) == (2, model.dim)
    assert type(model) is VisionTransformer
    assert count(backbone("vit")) < 3e6


def test_modifiers_come_in_order_and_before_freezing():
    spec = OmegaConf.create(
        {
            "name": "resnet18",
            "modifiers": {
                "change_first_convolutional_layer": {"num_input_channels": 1},
                "change_last_layer": {"num_outputs": 10},
            },
            "freeze": ["^fc", "^bn1"],
        }
    )
    model = backbone(spec)
    assert features(model, 1).shape == (2, 10) == (2, model.dim)
    still = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert still == ["bn1.weight", "bn1.bias", "fc.weight", "fc.bias"]
    spec.modifiers.change_last_layer_to_identity = None
    assert backbone(spec, freeze=["^bn1"]).dim == 512


def test_features_are_those_the_classifier_saw(small_weights):
    import torchvision

    x = torch.randn(2, 3, 64, 64)
    whole = torchvision.models.get_model("resnet18", weights="DEFAULT").eval()
    model = backbone("resnet18", pretrained=True).eval()
    torch.testing.assert_close(whole.fc(model(x)), whole(x))


def test_stem_sets_the_resolution():
    seen = []

    def resolution(stem):
        model = backbone({"name": "resnet18", "stem": stem})
        model.layer1.register_forward_hook(lambda m, i, o: seen.append(o.shape[-1]))
        return features(model).shape

    assert resolution("cifar") == resolution("imagenet") == resolution(None) == (2, 512)
    assert seen == [32, 8, 8]


def test_in_channels():
    for stem in ("imagenet", "cifar"):
        model = backbone("resnet18", in_channels=2, stem=stem)
        assert features(model, 2).shape == (2, 512)
    widths = [backbone("resnet18", in_channels=c).conv1.weight.std() for c in (1, 3, 6)]
    assert max(widths) < 1.1 * min(widths)  # drawn as wide as the layer it replaces


@pytest.mark.parametrize("channels", [1, 4])
def test_pretrained_filters_answer_a_grey_image_alike(small_weights, channels):
    grey = torch.randn(2, 1, 32, 32)
    three = backbone("resnet18", pretrained=True).eval()
    other = backbone("resnet18", pretrained=True, in_channels=channels).eval()
    torch.testing.assert_close(
        other(grey.expand(-1, channels, -1, -1)), three(grey.expand(-1, 3, -1, -1))
    )


def test_overrides_win_and_none_leaves_the_default():
    spec = OmegaConf.create({"name": "convnet", "width": 8, "in_channels": None})
    assert backbone(spec).dim == 32
    assert backbone(spec, in_channels=1)[0].in_channels == 1
    assert backbone(spec, in_channels=1, width=None).dim == 32
    assert backbone(spec, width=4).dim == 16


def test_every_weight_receives_a_gradient():
    for spec in ("convnet", {"name": "resnet18", "stem": "cifar"}):
        model = backbone(spec)
        model(torch.randn(4, 3, 16, 16)).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("provider", ["timm", None])
@pytest.mark.parametrize(
    "name, dim",
    [("resnet10t", 512), ("mobilenetv3_small_050", 1024)],  # the second widens
)
def test_timm(name, dim, provider):
    model = backbone({"name": name, "provider": provider, "in_channels": 1})
    assert features(model, 1, 64).shape == (2, dim) == (2, model.dim)


def test_a_name_that_two_have_is_torchvisions_unless_said():
    kinds = [type(backbone("resnet18", provider=p)) for p in (None, "timm")]
    assert [k.__module__.partition(".")[0] for k in kinds] == ["torchvision", "timm"]
    with pytest.raises(ConfigError, match="none of the models of torchvision"):
        backbone("resnet10t", provider="torchvision")
    with pytest.raises(ConfigError, match="none of the models of timm"):
        backbone("vit_b_32", provider="timm")


def test_arguments_of_timm_reach_its_constructor():
    given = {"output_stride": 16, "global_pool": "max", "drop_rate": 0.3}
    model = backbone({"name": "resnet10t", "provider": "timm", **given})
    assert model.drop_rate == 0.3 and model.global_pool.pool_type == "max"
    assert model.forward_features(torch.randn(2, 3, 64, 64)).shape[-1] == 64 // 16
    empty = dict.fromkeys(given)
    assert backbone({"name": "resnet10t", "provider": "timm", **empty}).drop_rate == 0


@pytest.mark.parametrize("name", ["convnet", "resnet18", "vit"])
def test_one_word_exchanges_the_backbone(config, name):
    image_size = ["++model.backbone.image_size=8"] * (name == "vit")
    trainer = SimCLR(config("simclr", f"model.backbone.name={name}", *image_size))
    trainer.setup()
    assert trainer.projector[0].in_features == trainer.backbone.dim
    assert trainer(trainer.loaders["val"].dataset.images[:2] / 255).shape == (
        2,
        trainer.backbone.dim,
    )
    trainer.cleanup()


@pytest.mark.parametrize(
    "spec, words",
    [
        ("resnet_18", "did you mean 'resnet18'"),
        ("vit_smal_patch16_224", "timm, .* did you mean 'vit_small_patch16_224'"),
        ("squeezenet1_1", "squeezenet1_1 has no linear classifier"),
        ({}, "name=None"),
        ({"name": "resnet18", "num_classes": 10}, "set data.num_classes"),
        ({"name": "resnet18", "provider": "tim"}, "did you mean 'timm'"),
        ({"name": "resnet18", "pretraned": True}, "did you mean 'pretrained'"),
        ({"name": "convnext_tiny", "layerscale": 1}, "did you mean 'layer_scale'"),
        ({"name": "convnet", "widht": 8}, "did you mean 'width'"),
        ({"name": "convnet", "pretrained": True}, "no pretrained weights"),
        ({"name": "vit", "pretrained": True}, "vit has no pretrained weights"),
        ({"name": "vit", "patchsize": 4}, "did you mean 'patch_size'"),
        ({"name": "vit", "channels": 1}, "did you mean 'in_channels'"),
        ({"name": "vit", "depth": 2.5}, "depth=2.5, expected a positive integer"),
        ({"name": "vit", "patch_size": 5}, "not divisible by patch_size=5"),
        ({"name": "vit", "heads": 5}, "multiple of 4, .* and of heads=5"),
        ({"name": "vit", "pool": "mode"}, "vit cannot be built: Only avg"),
        (
            {"name": "vit", "pool": "token", "class_token": False},
            "Token pooling needs the class token",
        ),
        ({"name": "vit", "pos_embed": "none"}, "pos_embed is not an argument"),
        ({"name": "convnet", "modifiers": {"chnge_last_layer": {}}}, "did you mean"),
        ({"name": "convnet", "freeze": ["layer9"]}, "'layer9' finds no parameter"),
        ({"name": "convnet", "stem": "cifar"}, "stem is not an argument that convnet"),
        ({"name": "resnet18", "stem": "cifr"}, "did you mean 'cifar'"),
        (
            {"name": "vit_b_32", "stem": "cifar"},
            "stem is not an argument that vit_b_32",
        ),
        ({"name": "vit_b_32", "num_layers": 1}, "num_layers is not an argument"),
        ({"name": "vit_b_32", "image_size": 30}, "vit_b_32 cannot"),
    ],
)
def test_wrong_specs_are_refused_in_words(spec, words):
    with pytest.raises(ConfigError, match=words):
        backbone(spec)


@pytest.mark.parametrize(
    "spec, words",
    [({"name": "resnet1o"}, "did you mean"), ({"name": "resnet10t", "foo": 1}, "foo")],
)
def test_wrong_timm_specs_are_refused_in_words(spec, words):
    with pytest.raises(ConfigError, match=words):
        backbone(spec, provider="timm")


def test_a_backbone_is_a_module():
    assert isinstance(backbone("convnet"), nn.Module)
