"""Changes to the first and last layer of a network, by name and in order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from stable_ssl.schema import ConfigError, nearest

HEADS = ("fc", "classifier", "head", "heads")  # torchvision's names for the classifier
MODIFIERS: dict[str, Callable[..., None]] = {}


def register_modifier(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function known by its name under `model.backbone.modifiers`.

    Args:
        function: of a network and the keys given there; changes the network in place,
            its `dim`, the number of features, included.
    """
    MODIFIERS[function.__name__] = function
    return function


def modify(model: nn.Module, modifiers: Mapping[str, Mapping | None]) -> None:
    """Apply modifiers by name, in the order given, as {name: {argument: value}}.

    Raises:
        ConfigError: an unknown modifier or argument, what a modifier refuses.
    """
    if not isinstance(modifiers, Mapping):
        raise ConfigError(
            f"model.backbone.modifiers={modifiers} is no mapping; write"
            " {change_last_layer: {num_outputs: 10}}"
        )
    for name, options in modifiers.items():
        if name not in MODIFIERS:
            raise ConfigError(
                f"model.backbone.modifiers.{name} is not a modifier"
                f"{nearest(str(name), list(MODIFIERS))} (there are:"
                f" {', '.join(MODIFIERS)})"
            )
        try:
            inspect.signature(MODIFIERS[name]).bind(model, **(options or {}))
        except TypeError as error:
            raise ConfigError(f"model.backbone.modifiers.{name}: {error}") from error
        MODIFIERS[name](model, **(options or {}))


@register_modifier
def change_first_convolutional_layer(model: nn.Module, num_input_channels: int) -> None:
    """Let a network see images of another number of channels, and keep its filters.

    They are summed over the old channels and spread evenly over the new ones, so that a
    grey image gives what it gave before.
    """
    check_positive({"num_input_channels": num_input_channels})
    conv = first_convolution(model)
    if conv.in_channels != num_input_channels:
        set_filters(conv, spread(conv.weight.detach(), num_input_channels))


@register_modifier
def change_last_layer(model: nn.Module, num_outputs: int) -> None:
    """Give a network a new linear last layer, or its first where it has none.

    It stands where the backbone's classifier was, which `backbone` removes.
    """
    check_positive({"num_outputs": num_outputs})
    path, old = last_layer(model)
    linear = isinstance(old, nn.Linear)
    new: nn.Module = nn.Linear(old.in_features if linear else model.dim, num_outputs)
    if isinstance(old, nn.Sequential):  # a norm before the classifier stays
        new = nn.Sequential(*old, new)
    model.set_submodule(path, new)
    model.dim = num_outputs


@register_modifier
def change_last_layer_to_identity(model: nn.Module) -> None:
    """Let a network return what its last linear layer received."""
    path, old = last_layer(model)
    if isinstance(old, nn.Linear):
        model.set_submodule(path, nn.Identity())
        model.dim = old.in_features


def first_convolution(model: nn.Module) -> nn.Conv2d:
    """Return the first convolution of a network in the order of definition.

    Raises:
        ConfigError: there is none, or its filters see a part of the channels.
    """
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1:
                raise ConfigError(
                    f"the first convolution of {type(model).__name__}, {path}, has"
                    f" {layer.groups} groups; its input channels cannot be changed"
                )
            return layer
    raise ConfigError(
        f"{type(model).__name__} has no convolution whose input channels could be"
        " changed; choose another model"
    )


def spread(filters: Tensor, channels: int) -> Tensor:
    """Sum filters (out, in, height, width) over `in`, spread it over other channels."""
    return (filters.sum(1, keepdim=True) / channels).repeat(1, channels, 1, 1)


def set_filters(conv: nn.Conv2d, filters: Tensor) -> None:
    """Give a convolution other filters (out, in, height, width), and keep its bias."""
    conv.in_channels = filters.shape[1]
    conv.weight = nn.Parameter(filters)


def last_layer(model: nn.Module) -> tuple[str, nn.Module]:
    """Return path and last layer of a network, or what a removed classifier left.

    The last linear layer of its classifier, which timm's models name and others call
    fc, classifier, head or heads; else the last linear layer to be defined.

    Raises:
        ConfigError: there is none.
    """
    head = next((h for h in HEADS if hasattr(model, h)), "")
    if hasattr(model, "get_classifier"):
        module = model.get_classifier()
        head = next((path for path, m in model.named_modules() if m is module), head)
    linear_layers = [
        (path, layer)
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and f"{path}.".startswith(head and f"{head}.")
    ]
    if linear_layers:
        return linear_layers[-1]
    if hasattr(model, "dim"):
        if not head and isinstance(model, nn.Sequential):
            model.append(nn.Identity())
            head = str(len(model) - 1)
        if head:
            return head, model.get_submodule(head)
    raise ConfigError(
        f"{type(model).__name__} has no linear layer that could be its last one;"
        " choose another model, or register_modifier for one of your own"
    )


def check_positive(sizes: Mapping[str, Any]) -> None:
    """Raise a ConfigError, which gives its name, for a size that is not positive."""
    for name, value in sizes.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name}={value}, expected a positive integer")
