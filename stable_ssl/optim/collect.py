"""The optimizers of a trainer: the name of each, and which parameters it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer

from stable_ssl.schema import ConfigError

MAIN = "main"  # the optimizer that the config describes


def collect_optimizers(
    named: Mapping[str, Optimizer],
    attributes: Mapping[str, Any],
    built: Optimizer | None = None,
) -> dict[str, Optimizer]:
    """Return all optimizers by name, the main one first; a parameter is in one of them.

    Args:
        named: those that have a name.
        attributes: of a trainer; an optimizer among them has the attribute's name, in a
            dict that of its key, in a list the list's name and its index.
        built: that of the config; it gives up what others hold, too.

    Raises:
        ConfigError: a parameter is in two that were built by hand.
    """
    names: dict[Optimizer, str] = {}
    for name, optimizer in [*named.items(), *_among(attributes)]:
        names.setdefault(optimizer, name)
        if isinstance(optimizer, LBFGS):  # views gradients, and so weights, as one row
            for parameter in members(optimizer):
                parameter.data = parameter.data.contiguous()
    others = [optimizer for optimizer in names if optimizer is not built]
    if built is not None and others:
        theirs = {id(p) for other in others for p in members(other)}
        for group in built.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in theirs]
        built.param_groups[:] = [g for g in built.param_groups if g["params"]]
    owners: dict[int, str] = {}
    for optimizer, name in names.items():
        for parameter in members(optimizer):
            other = owners.setdefault(id(parameter), name)
            if other != name:
                raise ConfigError(
                    f"the optimizers {other} and {name} share a parameter; give it to"
                    " one of them"
                )
    main_first = sorted(names.items(), key=lambda item: item[1] != MAIN)
    return {name: o for o, name in main_first if name != MAIN or o.param_groups}


def _among(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Optimizer]]:
    """Yield the optimizers among attributes, those in lists and dicts too."""
    for name, value in attributes.items():
        if isinstance(value, Optimizer):
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((k, v) for k, v in value.items() if isinstance(v, Optimizer))
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                if isinstance(item, Optimizer):
                    yield f"{name}_{i}", item


def group_names(optimizer: Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters of each group, those of the model's."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [
        [names[id(p)] for p in group["params"] if id(p) in names]
        for group in optimizer.param_groups
    ]


def members(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters of all groups of an optimizer."""
    return [p for group in optimizer.param_groups for p in group["params"]]
