"""Backbones by name: (N, C, H, W) -> (N, dim) pooled features, the classifier removed.

A small `convnet` for images of 8 to 32 px, `vit`, which is timm's vision transformer
with our argument names, every classifier of torchvision, and every model of timm. All
have the attribute `dim`, the number of features.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import takewhile
from typing import Any, NoReturn

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from stable_ssl.models.freeze import freeze
from stable_ssl.models.modifiers import (
    HEADS,
    change_first_convolutional_layer,
    check_positive,
    first_convolution,
    modify,
    set_filters,
)
from stable_ssl.models.vit import vit
from stable_ssl.models.weights import load_backbone
from stable_ssl.schema import ConfigError, described, nearest

KEYS = ("name", "provider", "pretrained", "weights", "in_channels", "stem", "width")
KEYS += ("modifiers", "freeze")
SIZE_KEYS = ("width", "image_size", "patch_size", "dim", "depth", "heads")
PROVIDERS = ("torchvision", "timm")
STEMS = ("imagenet", "cifar")
AUXILIARY = ("aux1", "aux2", "AuxLogits")  # classifiers half-way up an Inception
SWALLOWED = ("width_mult", "reduced_tail", "dilated")  # read by model functions alone


def backbone(spec: str | Mapping[str, Any], **overrides: Any) -> nn.Module:
    """Build a network by name, with `.dim`, the number of features, as an attribute.

    Args:
        spec: a name, or a mapping whose other keys go to the model's constructor:

            - name: `convnet`, `vit`, or any of torchvision's classifiers and of timm's
              models; torchvision's where both have it.
            - provider: torchvision or timm, to say whose; null: the first that has it.
            - pretrained: load the provider's default weights (false).
            - weights: a file that has all of them, of this library or another; see
              `weights.py` (none).
            - in_channels: C (3). Pretrained filters of torchvision are kept: summed
              over their inputs, then spread evenly, so that a grey image gives what it
              gave in three channels.
            - stem: of a ResNet of torchvision, imagenet (7x7 stride 2, max pool; the
              default) or cifar (3x3 stride 1, no pool, never pretrained).
            - width: of convnet, channels of its first layer (32).
            - image_size, patch_size, dim, ...: of vit, see `vit.py`.
            - modifiers: {name: {argument: value}}, in their order; see `modifiers.py`.
            - freeze: true, or regular expressions of names; see `freeze.py` (false).

        overrides: keys that replace the spec's; None, here or there, leaves a default.

    Raises:
        ConfigError: an unknown name, provider, key or modifier, a value that the
            constructor refuses, a model without a linear classifier, weights of another
            model, a frozen part that it does not have.
    """
    options = {**_without_nones(spec), **_without_nones(overrides)}
    name, provider = options.pop("name", None), options.pop("provider", None)
    pretrained = options.pop("pretrained", False)
    weights = options.pop("weights", None)
    modifiers, frozen = options.pop("modifiers", {}), options.pop("freeze", False)
    if not isinstance(name, str):
        raise ConfigError(f"model.backbone.name={name}; give a model's name: resnet18")
    if "num_classes" in options:
        raise ConfigError(
            "model.backbone.num_classes: a backbone has no classifier; set"
            " data.num_classes, or give it a last layer by model.backbone.modifiers"
        )
    if not isinstance(pretrained, bool):
        raise ConfigError(
            f"model.backbone.pretrained={pretrained}, expected true or false"
        )
    if weights is not None and (pretrained or not isinstance(weights, str)):
        raise ConfigError(
            f"model.backbone.weights={weights}, expected the path of a file, and"
            " pretrained: false beside it"
        )
    build, sizes = _builder(name, provider), ["in_channels"]
    if build not in BUILDERS.values():
        build = partial(build, name, pretrained)
    elif pretrained:
        raise ConfigError(f"{name} has no pretrained weights; set pretrained: false")
    else:
        sizes += SIZE_KEYS
    check_positive({f"model.backbone.{k}": options[k] for k in sizes if k in options})
    try:
        model = build(**options)
    except ConfigError:
        raise
    except Exception as error:  # timm and torchvision check little, and download
        unknown = re.search(r"keyword argument '(\w+)'", str(error))
        if unknown and isinstance(error, TypeError):
            known = (*KEYS, *inspect.signature(build).parameters)
            _refuse_key(name, unknown[1], known, error)
        raise ConfigError(
            f"model.backbone: {name} cannot be built: {described(error)}"
        ) from error
    if weights is not None:
        load_backbone(model, weights)
    modify(model, modifiers)
    return freeze(model, frozen)


def _without_nones(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec as a dict of plain values, without those that are None."""
    if isinstance(spec, str):
        return {"name": spec}
    if isinstance(spec, DictConfig):
        spec = OmegaConf.to_container(spec, resolve=True)
    if not isinstance(spec, Mapping):
        raise ConfigError(
            f"model.backbone={spec} is no backbone; write"
            " model.backbone.name=resnet18, and further keys beside the name"
        )
    return {key: value for key, value in spec.items() if value is not None}


def _builder(name: str, provider: str | None) -> Callable[..., nn.Module]:
    """Return the function that builds the model of a name."""
    if provider not in (None, *PROVIDERS):
        raise ConfigError(
            f"model.backbone.provider={provider}, expected null, torchvision or timm"
            f"{nearest(str(provider), PROVIDERS)}"
        )
    known: list[str] = []
    if provider is None:
        known += BUILDERS
        if name in BUILDERS:
            return BUILDERS[name]
    if provider != "timm":
        from torchvision import models

        known += models.list_models(module=models)
        if name.lower() in known:
            return _torchvision
    if provider != "torchvision":
        import timm

        known += timm.list_models()
        if ":" in name or timm.is_model(name):  # "hf-hub:..." is looked up there
            return _timm
    raise ConfigError(
        f"model.backbone.name={name} is none of the models of"
        f" {provider or 'torchvision and timm, convnet and vit'}{nearest(name, known)}"
    )


def _refuse_key(
    name: str, key: str, known: Iterable[str], cause: Exception | None = None
) -> NoReturn:
    hint = nearest(key, [other for other in known if other != key])
    raise ConfigError(
        f"model.backbone.{key} is not an argument that {name} takes; "
        f"correct or remove it{hint}"
    ) from cause


# --- one builder for each provider ---------------------------------------------------


def _convnet(in_channels: int = 3, width: int = 32) -> nn.Sequential:
    """Build four conv-norm-ReLU layers, 0.24 M weights and 128 features at width 32.

    Two of them pool before they normalise, which leaves a quarter of the work.
    """
    layers = []
    previous = in_channels
    for i, channels in enumerate((width, 2 * width, 4 * width, 4 * width)):
        conv = nn.Conv2d(previous, channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        pool = [nn.MaxPool2d(2)] if i in (0, 2) else []
        layers += [conv, *pool, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        previous = channels
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.dim = previous
    return model


BUILDERS = {"convnet": _convnet, "vit": vit}


def _timm(
    name: str, pretrained: bool, in_channels: int = 3, **options: Any
) -> nn.Module:
    """Build a model of timm without its classifier."""
    import timm

    model = timm.create_model(
        name, pretrained=pretrained, num_classes=0, in_chans=in_channels, **options
    )
    # Some heads widen the features before the classifier, which timm then keeps.
    model.dim = getattr(model, "head_hidden_size", None) or model.num_features
    return model


def _torchvision(
    name: str,
    pretrained: bool,
    in_channels: int = 3,
    stem: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a torchvision classifier and remove its last layers."""
    import torchvision

    weights = "DEFAULT" if pretrained else None
    model = torchvision.models.get_model(name, weights=weights, **options)
    arguments = inspect.signature(type(model)).parameters  # some swallow unknown keys
    for key in options:
        if key not in arguments and key not in SWALLOWED:
            _refuse_key(name, key, (*KEYS, *arguments))
    if stem is not None:
        if not isinstance(model, torchvision.models.ResNet):
            _refuse_key(name, "stem", ())
        if stem not in STEMS:
            raise ConfigError(
                f"model.backbone.stem={stem}, expected one of {', '.join(STEMS)}"
                f"{nearest(str(stem), STEMS)}"
            )
    if stem == "cifar":
        _cifar_stem(model, in_channels)
    if hasattr(model, "aux_logits"):
        model.aux_logits = False
        for auxiliary in AUXILIARY:
            setattr(model, auxiliary, None)
    if pretrained:
        change_first_convolutional_layer(model, in_channels)
    elif (conv := first_convolution(model)).in_channels != in_channels:
        shape = conv.out_channels, in_channels, *conv.kernel_size
        set_filters(conv, torch.randn(shape) * conv.weight.detach().std())
    model.dim = _remove_classifier(model, name)
    if isinstance(model, torchvision.models.SwinTransformer):  # as timm's models say it
        model.features.output_fmt = model.norm.output_fmt = "NHWC"
    elif isinstance(model, torchvision.models.VisionTransformer):
        model.num_prefix_tokens = 1
    return model


def _cifar_stem(model: nn.Module, in_channels: int) -> None:
    """Keep the resolution of small images: Chen et al. 2020, appendix B.9."""
    out_channels = model.conv1.out_channels
    model.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def _remove_classifier(model: nn.Module, name: str) -> int:
    """Cut the model before the first linear layer of its head; return its inputs.

    What precedes that layer in the head (a norm, a pool) stays, dropout excepted.
    """
    linear = [path for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ConfigError(
            f"model.backbone.name={name} has no linear classifier to remove; "
            "choose another model"
        )
    heads = {path.partition(".")[0] for path in linear}
    path = next((head for head in HEADS if head in heads), linear[-1])
    head = model.get_submodule(path)
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    kept = list(takewhile(lambda layer: not isinstance(layer, nn.Linear), layers))
    dim = layers[len(kept)].in_features
    kept = [layer for layer in kept if not isinstance(layer, nn.Dropout)]
    model.set_submodule(path, nn.Sequential(*kept) if kept else nn.Identity())
    return dim
