"""The modules that draw from the global generators in training, such as dropout."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

RATES = ("drop_prob", "dropout", "attention_dropout")  # of torch, torchvision and timm
OF_DROPS = ("p", "prob")  # what other modules may call otherwise used numbers
DROPS = ("drop", "stochasticdepth")  # in the name of a class whose rate these are


def drawing_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules, by name, that drop something at random in training.

    They are known by the names of their rates, those of torch, torchvision and timm; a
    function such as `torch.nn.functional.dropout` in a `forward` is not.
    """
    for name, child in module.named_modules():
        kind = type(child).__name__.lower()
        names = RATES + OF_DROPS if any(drop in kind for drop in DROPS) else RATES
        rates = [getattr(child, rate, None) for rate in names]
        if child.training and any(isinstance(p, float) and p > 0 for p in rates):
            yield name, child
