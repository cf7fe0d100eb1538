"""A queue of recent vectors, used as negatives or neighbours of those of a batch.

He et al. 2020 (MoCo), https://arxiv.org/abs/1911.05722, section 3.2; Dwibedi et al.
2021 (NNCLR), https://arxiv.org/abs/2104.14548, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stable_ssl import distributed, seeding
from stable_ssl.schema import ConfigError
from stable_ssl.vectors import unit


class Queue(nn.Module):
    """The newest `size` vectors of all ranks, scaled to norm 1, first in first out.

    Both buffers are in the state dict and the same on every rank: `rows` (size, dim),
    of random directions at first, and `pointer`, the oldest row.

    Args:
        size: how many vectors are kept.
        dim: of each.
        seed: of the first rows; the global generators are left alone. Two queues of a
            run need different ones.

    Raises:
        ConfigError: size or dim is not positive.
    """

    def __init__(self, size: int, dim: int, seed: int = 0):
        super().__init__()
        if size < 1 or dim < 1:
            raise ConfigError(f"a queue of {size} vectors of {dim}; use 1 or more each")
        rows = seeding.normal(seeding.fold_in(seed, torch.arange(size)), (dim,))
        self.register_buffer("rows", unit(rows))
        self.register_buffer("pointer", torch.tensor(0))

    @torch.no_grad()
    def enqueue(self, z: Tensor) -> None:
        """Replace the oldest rows by the vectors of all ranks; synchronises ranks.

        Call it once a batch and after the loss, or the batch's vectors would be their
        own negatives. `rows` becomes a new tensor, so the backward pass of a loss that
        used the old one is safe; a copy of the queue is cheaper than comparing with it.

        Args:
            z: (N, dim), of any norm and the same N on every rank; of more than `size`
                over all ranks the last ones stay.
        """
        size = len(self.rows)
        z = distributed.gather(unit(z.to(self.rows.dtype)))[-size:]
        offsets = torch.arange(len(z), device=z.device)
        self.rows = self.rows.index_copy(0, (self.pointer + offsets) % size, z)
        self.pointer = (self.pointer + len(z)) % size

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Return for each of z (N, dim) the row of largest cosine, (N, dim)."""
        with torch.autocast(z.device.type, enabled=False):
            cosines = z.to(self.rows.dtype) @ self.rows.T  # times |z|
        return self.rows[cosines.argmax(1)]
