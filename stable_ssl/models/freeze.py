"""Parts of a network that keep their weights and their running statistics."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from stable_ssl.schema import ConfigError


def freeze(module: nn.Module, patterns: bool | str | Sequence[str] = True) -> nn.Module:
    """Freeze a module or parts of it, for as long as it lives.

    The parameters get no gradient, and `train()`, of the module or of what contains it,
    leaves frozen parts in evaluation: no batch statistics, no dropout.

    Args:
        module: changed in place; a copy of it is frozen alike.
        patterns: true freezes all of it, false nothing; otherwise one or more regular
            expressions, found in the names of parameters and submodules: `^layer1`.

    Returns:
        The module.

    Raises:
        ConfigError: a pattern that finds no parameter or is no regular expression.
    """
    found = _compiled(patterns)
    names = [name for name, _ in module.named_parameters()]
    for pattern in found:
        if names and not any(map(pattern.search, names)):
            raise ConfigError(
                f"model.backbone.freeze: '{pattern.pattern}' finds no parameter; names"
                f" are such as {', '.join(names[:3])}"
            )
    if not found:
        return module

    def frozen(name: str) -> bool:
        return any(pattern.search(name) for pattern in found)

    for name, parameter in module.named_parameters():
        if frozen(name):
            parameter.requires_grad_(False)
    parts = [
        name
        for name, part in module.named_modules()
        if frozen(name) and not any(p.requires_grad for p in part.parameters())
    ]
    if not isinstance(module, PartlyFrozen):
        module.__class__ = _partly_frozen(type(module))
        module.frozen_parts = []
    module.frozen_parts += parts
    return module.train(module.training)


class PartlyFrozen(nn.Module):
    """What `freeze` adds to the class of a module: a `train` that knows frozen parts.

    Parts by name: some are replaced later, as batch norms are for several GPUs.
    """

    frozen_parts: list[str]

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode of all but the frozen parts."""
        super().train(mode)
        for name in self.frozen_parts:
            nn.Module.train(self.get_submodule(name), False)
        return self

    def __reduce__(self) -> tuple:
        """Say how to pickle and copy it: its class has no name in a module."""
        return _empty, (type(self).__bases__[1],), vars(self)


def _partly_frozen(cls: type[nn.Module]) -> type[nn.Module]:
    return type(cls.__name__, (PartlyFrozen, cls), {"__module__": cls.__module__})


def _empty(cls: type[nn.Module]) -> nn.Module:
    frozen = _partly_frozen(cls)
    return frozen.__new__(frozen)


def _compiled(patterns: bool | str | Sequence[str]) -> list[re.Pattern]:
    if isinstance(patterns, bool):
        patterns = [""] if patterns else []
    elif isinstance(patterns, str):
        patterns = [patterns]
    try:
        return [re.compile(pattern) for pattern in patterns]
    except (re.error, TypeError) as error:
        raise ConfigError(
            f"model.backbone.freeze={patterns}, expected true, false or a list of"
            f" regular expressions: {error}"
        ) from error
