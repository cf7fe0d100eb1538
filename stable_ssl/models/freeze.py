"""Networks, or parts of them, that keep their weights and running statistics."""

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
    expressions = _compile(patterns)
    names = [name for name, _ in module.named_parameters()]
    for pattern in expressions:
        if names and not any(map(pattern.search, names)):
            raise ConfigError(
                f"model.backbone.freeze: '{pattern.pattern}' finds no parameter; names"
                f" are such as {', '.join(names[:3])}"
            )
    if not expressions:
        return module

    def frozen(name: str) -> bool:
        return any(pattern.search(name) for pattern in expressions)

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
    """What `freeze` adds to the class of a module: frozen parts stay in evaluation.

    They are kept by name, as modules may be replaced: batch norms are for several GPUs.
    """

    frozen_parts: list[str]

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode of all but the frozen parts."""
        super().train(mode)
        for name in self.frozen_parts:
            nn.Module.train(self.get_submodule(name), False)
        return self

    def __reduce__(self) -> tuple:
        """Pickle and copy by way of the base class: this one is made when needed."""
        return _new_instance, (type(self).__bases__[1],), vars(self)


def _partly_frozen(cls: type[nn.Module]) -> type[nn.Module]:
    return type(cls.__name__, (PartlyFrozen, cls), {"__module__": cls.__module__})


def _new_instance(cls: type[nn.Module]) -> nn.Module:
    frozen = _partly_frozen(cls)
    return frozen.__new__(frozen)


def _compile(patterns: bool | str | Sequence[str]) -> list[re.Pattern]:
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
