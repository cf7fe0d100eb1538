"""What ranks do together beside collectives: one gradient, one decision."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stable_ssl.config import ConfigError
from stable_ssl.distributed.group import world_size


class _Loss(nn.Module):
    """A module whose forward is a function that uses the parameters of another."""

    def __init__(self, module: nn.Module, loss: Callable[[], Any]):
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self) -> Any:
        return self.loss()


def average_gradients(
    module: nn.Module, loss: Callable[[], Any], share_buffers: bool
) -> DistributedDataParallel:
    """Wrap a loss so that its gradients are averaged over ranks as they are computed.

    Any number of forward passes, frozen teachers and queues may be in `loss`; the
    gradients are reduced once. The wrapper must not become a child of the module.

    Args:
        module: owns the parameters, under its own names.
        loss: called without arguments.
        share_buffers: whether all take rank 0's buffers before each loss; needed
            where ranks update them from their own batch alone.
    """
    with warnings.catch_warnings():  # torch is about to rename broadcast_buffers
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")
        return DistributedDataParallel(
            _Loss(module, loss), broadcast_buffers=share_buffers
        )


def share_buffers(module: nn.Module) -> None:
    """Give all ranks the buffers of rank 0, such as running statistics."""
    for buffer in module.buffers():
        dist.broadcast(buffer, 0)


def check_used(module: nn.Module) -> None:
    """Refuse parameters without a gradient: the other ranks would wait for them.

    Raises:
        ConfigError: names some of them.
    """
    trained = ((n, p) for n, p in module.named_parameters() if p.requires_grad)
    unused = [name for name, p in trained if p.grad is None]
    if unused:
        raise ConfigError(
            f"compute_loss does not use {len(unused)} of the parameters:"
            f" {', '.join(unused[:5])}; with several processes each must get a"
            " gradient: leave them out of the model, or set requires_grad=False"
        )


class Vote:
    """Let ranks decide alike after every step, without waiting for one another.

    What a vote returns was asked for at the vote before: the answers travel while the
    next step is computed, on the CPU, so that no GPU is waited for.
    """

    def __init__(self) -> None:
        self.pending: tuple[torch.Tensor, Any] | None = None

    def __call__(self, *wishes: int) -> list[int]:
        """Return the largest of all ranks' wishes, each as of the call before."""
        if world_size() == 1:
            return list(wishes)
        before, box = self.pending, torch.tensor(wishes)
        self.pending = box, dist.all_reduce(box, dist.ReduceOp.MAX, async_op=True)
        if before is None:
            return [0] * len(wishes)
        before[1].wait()
        return before[0].tolist()
