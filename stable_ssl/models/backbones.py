"""Backbones by name: (N, C, H, W) -> (N, dim) pooled features, the classifier removed.

A small `convnet` for images of 8 to 32 px, a `vit` whose patches can be left out, every
classifier of torchvision, and every model of timm. What they share is one attribute,
`dim`.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf
from torch import nn

from stable_ssl.config import ConfigError, nearest
from stable_ssl.models.freeze import freeze
from stable_ssl.models.modifiers import (
    HEADS,
    change_first_convolutional_layer,
    convolution_like,
    first_convolution,
    modify,
)
from stable_ssl.models.vit import ViT

KEYS = (
    "name",
    "provider",
    "pretrained",
    "in_channels",
    "stem",
    "width",
    "modifiers",
    "freeze",
)
OWN = ("convnet", "vit")
STEMS = ("imagenet", "cifar")
AUXILIARY = ("aux1", "aux2", "AuxLogits")  # classifiers half-way up an Inception
SWALLOWED = ("width_mult", "reduced_tail", "dilated")  # read before the constructor


def backbone(spec: str | Mapping[str, Any], **overrides: Any) -> nn.Module:
    """Build a network by name, with `.dim`, the number of features, as an attribute.

    Args:
        spec: a name, or a mapping whose other keys go to the model's constructor:
            name: `convnet`, `vit` or a torchvision classifier; with `provider: timm`,
                any of timm's.
            provider: null, torchvision or timm.
            pretrained: load the provider's default weights (false).
            in_channels: C (3). Pretrained filters are kept: averaged over their inputs,
                then shared out, so that a grey image gives what it gave in three.
            stem: of a ResNet, imagenet (7x7 stride 2, max pool; the default) or cifar
                (3x3 stride 1, no pool, never pretrained).
            width: of convnet, channels of its first layer (32).
            modifiers: {name: {argument: value}}, applied in order; see `modifiers.py`.
            freeze: true, or regular expressions of names; see `freeze.py` (false).
        overrides: keys that replace the spec's; None, here or there, leaves a default.

    Raises:
        ConfigError: an unknown name, provider, key or modifier, a value that the
            constructor refuses, a model without a linear classifier, a frozen part that
            it does not have, timm not installed.
    """
    options = {**_plain(spec), **_plain(overrides)}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"model.backbone.name={name}; give a model's name: resnet18")
    if "num_classes" in options:
        raise ConfigError(
            "model.backbone.num_classes: a backbone has no classifier; set"
            " data.num_classes, or give it a last layer by model.backbone.modifiers"
        )
    provider = options.pop("provider", None)
    pretrained = options.pop("pretrained", False)
    in_channels = options.pop("in_channels", 3)
    modifiers, frozen = options.pop("modifiers", {}), options.pop("freeze", False)
    _check_type("pretrained", pretrained, isinstance(pretrained, bool), "true or false")
    for key, value in (
        ("in_channels", in_channels),
        ("width", options.get("width", 1)),
    ):
        whole = type(value) is int and value > 0
        _check_type(key, value, whole, "a positive integer")
    if provider == "timm":
        build = _timm
    elif provider is None and name in OWN:
        build = _convnet if name == "convnet" else _vit
    elif provider in (None, "torchvision"):
        build = _torchvision
    else:
        raise ConfigError(
            f"model.backbone.provider={provider}, expected null, torchvision or timm"
            f"{nearest(str(provider), ('torchvision', 'timm'))}"
        )
    try:
        model = build(name, pretrained, in_channels, **options)
    except TypeError as error:
        wrong = re.search(r"keyword argument '(\w+)'", str(error))
        if wrong is None:
            raise
        _refuse(name, wrong.group(1), KEYS, error)
    modify(model, modifiers)
    return freeze(model, frozen)


def _check_type(key: str, value: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise ConfigError(f"model.backbone.{key}={value}, expected {expected}")


def _plain(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec as a dict of plain values, without those that are None."""
    if isinstance(spec, str):
        return {"name": spec}
    if isinstance(spec, DictConfig):
        spec = OmegaConf.to_container(spec, resolve=True)
    return {key: value for key, value in spec.items() if value is not None}


def _refuse(
    name: str, key: str, known: Iterable[str], cause: Exception | None = None
) -> NoReturn:
    hint = nearest(key, [other for other in known if other != key])
    raise ConfigError(
        f"model.backbone.{key} is not an argument that {name} takes; "
        f"correct or remove it{hint}"
    ) from cause


# --- convnet and vit ------------------------------------------------------------------


def _convnet(
    name: str, pretrained: bool, in_channels: int, width: int = 32
) -> nn.Sequential:
    """Build four conv-norm-ReLU layers, 0.24 M weights and 128 features at width 32.

    Two of them halve the resolution before they normalise: a quarter of the work.
    """
    _refuse_pretrained(name, pretrained)
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


def _vit(name: str, pretrained: bool, in_channels: int, **options: Any) -> ViT:
    """Build a ViT; by default for images of 32 px, 2.7 M weights and 192 features."""
    _refuse_pretrained(name, pretrained)
    known = [k for k in inspect.signature(ViT).parameters if k != "channels"]
    for key, value in options.items():
        if key not in known:
            _refuse(name, key, (*KEYS, *known))
        if key not in ("mlp_ratio", "class_token", "pool"):
            whole = type(value) is int and value > 0
            _check_type(key, value, whole, "a positive integer")
    return ViT(channels=in_channels, **options)


def _refuse_pretrained(name: str, pretrained: bool) -> None:
    if pretrained:
        raise ConfigError(f"{name} has no pretrained weights; set pretrained: false")


# --- torchvision ----------------------------------------------------------------------


def _torchvision(
    name: str,
    pretrained: bool,
    in_channels: int,
    stem: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a torchvision classifier and remove its last layers."""
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name.lower() not in known:
        raise ConfigError(
            f"model.backbone.name={name} is none of {', '.join(OWN)} and torchvision's"
            f" classifiers{nearest(name, (*OWN, *known))}; for a model of timm set"
            " provider: timm"
        )
    weights = "DEFAULT" if pretrained else None
    try:
        model = torchvision.models.get_model(name, weights=weights, **options)
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f"model.backbone: {name} refuses its keys: {error}"
        ) from error
    arguments = inspect.signature(type(model)).parameters  # some swallow unknown keys
    for key in options:
        if key not in arguments and key not in SWALLOWED:
            _refuse(name, key, (*KEYS, *arguments))
    if stem is not None:
        if not isinstance(model, torchvision.models.ResNet):
            _refuse(name, "stem", ())
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
    _set_in_channels(model, in_channels, keep_filters=pretrained)
    model.dim = _remove_classifier(model, name)
    return model


def _cifar_stem(model: nn.Module, in_channels: int) -> None:
    """Keep the resolution of small images: Chen et al. 2020, appendix B.9."""
    out_channels = model.conv1.out_channels
    model.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def _set_in_channels(model: nn.Module, in_channels: int, keep_filters: bool) -> None:
    """Replace the first convolution by one of `in_channels` inputs."""
    if keep_filters:
        change_first_convolutional_layer(model, in_channels)
        return
    path, old = first_convolution(model)
    if old.in_channels != in_channels:
        new = convolution_like(old, in_channels)
        nn.init.normal_(new.weight, std=old.weight.std().item())
        model.set_submodule(path, new)


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


# --- timm -----------------------------------------------------------------------------


def _timm(name: str, pretrained: bool, in_channels: int, **options: Any) -> nn.Module:
    """Build a model of timm without its classifier."""
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"model.backbone.provider=timm needs timm for {name} and finds none; "
            "pip install stable-ssl[timm]"
        ) from error
    if ":" not in name and not timm.is_model(name):  # "hf-hub:..." is looked up there
        raise ConfigError(
            f"model.backbone.name={name} is not a model of timm"
            f"{nearest(name, timm.list_models())}"
        )
    model = timm.create_model(
        name, pretrained=pretrained, num_classes=0, in_chans=in_channels, **options
    )
    # Some heads widen the features before the classifier, which timm then keeps.
    model.dim = getattr(model, "head_hidden_size", None) or model.num_features
    return model
