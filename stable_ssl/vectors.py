"""Vectors of norm 1, as losses, heads and queues compare them."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

EPS = 1e-6  # smallest norm divided by: a zero row must not multiply gradients by 1e12


def unit(z: Tensor) -> Tensor:
    """Scale vectors (..., D) to norm 1, in float32 at least; half squares overflow."""
    return normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1, eps=EPS)
