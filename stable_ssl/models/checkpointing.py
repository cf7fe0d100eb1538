"""Activation checkpointing: blocks keep their inputs, and compute the rest again.

Chen et al. 2016, https://arxiv.org/abs/1604.06174: a block's activations are made anew
in the backward pass, which costs one more forward pass of it, and need not be kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stable_ssl.models.norm import batch_norms
from stable_ssl.schema import ConfigError

BLOCKS = {  # classes, by name, so that no library is imported for them
    "timm.models.convnext.ConvNeXtBlock",
    "timm.models.eva.EvaBlock",
    "timm.models.resnet.BasicBlock",
    "timm.models.resnet.Bottleneck",
    "timm.models.vision_transformer.Block",
    "torchvision.models.resnet.BasicBlock",
    "torchvision.models.resnet.Bottleneck",
    "torchvision.models.vision_transformer.EncoderBlock",
}


def checkpoint_activations(module: nn.Module, compiled: bool = False) -> None:
    """Let the blocks of a module, wherever in it, be checkpointed in training.

    Losses, gradients, running statistics and random draws stay what they are. A copy of
    a block is not checkpointed, and neither is one of which nothing is trained.

    Args:
        module: changed in place.
        compiled: whether torch.compile will see it.

    Raises:
        ConfigError: there is no block in it, or one with batch norms is compiled.
    """
    blocks = [child for child in module.modules() if _is_block(child)]
    if not blocks:
        kinds = ", ".join(sorted(BLOCKS))
        raise ConfigError(
            "model.checkpointing=true, and the model has no block that is known; choose"
            f" a backbone of some ({kinds}), or set model.checkpointing=false"
        )
    if compiled and any(any(batch_norms(block)) for block in blocks):
        raise ConfigError(
            "hardware.compile=true and model.checkpointing=true, and the model's blocks"
            " have batch norms, whose statistics a compiled repetition cannot leave"
            " alone; set one of the two to false"
        )
    for block in blocks:
        if any(p.requires_grad for p in block.parameters()):
            block.__class__ = _checkpointed(type(block))


class Checkpointed(nn.Module):
    """What `checkpoint_activations` adds to the class of a block."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Return the block's output; keep no more than its inputs for the gradient."""
        run = super().forward
        if not (self.training and torch.is_grad_enabled()):
            return run(*arguments, **options)
        if any(batch_norms(self)):
            options["context_fn"] = partial(_contexts, self)
        return checkpoint(run, *arguments, use_reentrant=False, **options)

    def __reduce__(self) -> tuple:
        """Pickle and copy as what it was: the class is made when needed."""
        return _new_instance, (type(self).__bases__[1],), vars(self)


@cache
def _checkpointed(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a block, checkpointed: one, as that of the blocks is."""
    return type(cls.__name__, (Checkpointed, cls), {"__module__": cls.__module__})


def _new_instance(cls: type[nn.Module]) -> nn.Module:
    return cls.__new__(cls)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, ...]:
    """Return the contexts of a forward pass and of its repetition."""
    return nullcontext(), _untracked(block)


@contextmanager
def _untracked(block: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are: the first pass has moved them."""
    norms = [norm for _, norm in batch_norms(block) if norm.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


def _is_block(module: nn.Module) -> bool:
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__}
    return bool(names & BLOCKS) and not isinstance(module, Checkpointed)
