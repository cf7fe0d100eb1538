"""The gradient of all ranks, averaged by whoever steps an optimizer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stable_ssl.distributed.group import waiting, world_size
from stable_ssl.schema import ConfigError

BUCKET = 25 * 2**20  # bytes sent at once: fewer calls than one a parameter
IN_FLIGHT = 4  # buckets: all of the memory that averaging takes beside the gradients


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their means over the ranks; synchronises ranks.

    A parameter that has no gradient on any rank keeps None, as on one process; where
    only some ranks lack it, it counts as zero there. The host waits for a GPU only if
    this rank lacks one.

    Args:
        parameters: the same on every rank, in the same order.

    Raises:
        ConfigError: a sparse gradient.
    """
    if world_size() == 1 or not parameters:
        return
    counts = torch.tensor([float(p.grad is not None) for p in parameters])
    counts = counts.to(parameters[0].device, non_blocking=True)
    counting = dist.all_reduce(counts, async_op=True)  # ranks with a gradient of each
    buckets = _buckets(parameters)
    sent = deque((bucket, _send(bucket)) for bucket in islice(buckets, IN_FLIGHT))
    with waiting():
        counting.wait()
    if any(p.grad is None for p in parameters):
        for parameter, count in zip(parameters, counts.tolist(), strict=True):
            if parameter.grad is None and count:
                parameter.grad = torch.zeros_like(parameter)
    while sent:
        bucket, (flat, work) = sent.popleft()
        with waiting():
            work.wait()
        means = flat.split([p.numel() for p in bucket])
        for parameter, mean in zip(bucket, means, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(mean.view_as(parameter))
        sent.extend((bucket, _send(bucket)) for bucket in islice(buckets, 1))


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield parameters of one type and device, in their order, a bucket at a time."""
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for members in kinds.values():
        bucket, size = [], 0
        for parameter in members:
            bucket.append(parameter)
            size += parameter.numel() * parameter.element_size()
            if size >= BUCKET:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


def _send(bucket: Sequence[nn.Parameter]) -> tuple[Tensor, dist.Work]:
    """Start to add up a bucket's gradients over the ranks."""
    if any(p.grad is not None and p.grad.is_sparse for p in bucket):
        raise ConfigError(
            "sparse gradients are not averaged over processes; build the embedding with"
            " sparse=False"
        )
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
    flat = torch.cat([g.reshape(-1) for g in gradients]).div_(world_size())
    return flat, dist.all_reduce(flat, async_op=True)
