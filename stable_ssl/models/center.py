"""The running mean of a teacher's outputs, which its codes are freed of.

Caron et al. 2021 (DINO), https://arxiv.org/abs/2104.14294, eq. 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stable_ssl import distributed


class Center(nn.Module):
    """A mean over steps: c <- m c + (1 - m) mean of the step; `.value` is c, (K,).

    Args:
        dim: K, of the outputs.
        momentum: m.
    """

    def __init__(self, dim: int, momentum: float = 0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(dim))
        self.means: list[Tensor] = []  # of this step, one a micro-batch

    def observe(self, outputs: Tensor) -> None:
        """Count outputs (..., K) of a micro-batch, in training alone."""
        if self.training:
            self.means.append(outputs.detach().flatten(0, -2).mean(0))

    @torch.no_grad()
    def update(self) -> None:
        """Move by the mean of the step on all ranks; call it after the step."""
        mean = distributed.all_mean(torch.stack(self.means).mean(0))
        self.value.lerp_(mean.to(self.value.dtype), 1 - self.momentum)
        self.means.clear()
