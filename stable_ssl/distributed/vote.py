"""What ranks decide together."""

from __future__ import annotations

import torch
import torch.distributed as dist

from stable_ssl.distributed.group import waiting, world_size


class Vote:
    """Let ranks decide alike after every step, without waiting for one another.

    What a vote returns was asked for at the vote before: the answers travel while the
    next step is computed, on the CPU, so that no GPU is waited for.
    """

    def __init__(self) -> None:
        self.pending: tuple[torch.Tensor, dist.Work] | None = None

    def __call__(self, *wishes: int) -> list[int]:
        """Return the largest of all ranks' wishes, each as of the call before."""
        if world_size() == 1:
            return list(wishes)
        previous, largest = self.pending, torch.tensor(wishes)
        work = dist.all_reduce(largest, dist.ReduceOp.MAX, async_op=True)
        self.pending = largest, work
        if previous is None:
            return [0] * len(wishes)
        largest, work = previous
        with waiting():
            work.wait()
        return largest.tolist()

    def close(self) -> None:
        """Wait for the last vote's answers, which nobody reads; all ranks do it."""
        if self.pending is not None:
            with waiting():
                self.pending[1].wait()
        self.pending = None
