"""Weights too large for each process: blocks shared out by FSDP2 of torch.

`hardware.sharding=full` gives every process a part of each block's weights, gradients
and optimizer state. A block is whole only while it computes: it is gathered before its
forward and its backward pass, and its gradients come out of the backward pass averaged
over the processes. All other weights, as embeddings, norms and heads, stay whole on
every process, so that methods may use them outside of a module's forward pass.

A sharded tensor is torch's DTensor: its shape is that of the whole, and `local` is the
part of this process. Zhao et al. 2023, https://arxiv.org/abs/2304.11277.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stable_ssl.distributed.group import rank, waiting, world_size
from stable_ssl.schema import ConfigError


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is shared out over the processes."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, in the same memory; of a whole one, it.

    Synchronises nothing.
    """
    return tensor.to_local() if is_sharded(tensor) else tensor


# --- sharing out ----------------------------------------------------------------------


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return the repeated parts of a network, as a transformer's or a ResNet's blocks.

    They are the children of a list or sequence of which several have one class, if they
    have parts with weights themselves; none lies in another.
    """
    found: list[nn.Module] = []
    for parent in module.modules():
        if isinstance(parent, (nn.ModuleList, nn.Sequential)):
            children = [c for c in parent if sum(map(_has_weights, c.children())) > 1]
            kinds = [type(child) for child in children]
            found += [c for c in children if kinds.count(type(c)) > 1]
    inside = {id(part) for one in found for part in one.modules() if part is not one}
    return [one for one in dict.fromkeys(found) if id(one) not in inside]


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def shard(module: nn.Module, device: torch.device) -> None:
    """Share the weights of a module's blocks out over all processes.

    They are gathered in their own type, and computed with as the run's precision says:
    autocast casts what it casts of whole weights, too.

    Args:
        module: on the device, its weights the same on every process.
        device: of this process.

    Raises:
        ConfigError: the module has no blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    members = blocks(module)
    if not members:
        raise ConfigError(
            "hardware.sharding=full shares out the blocks of a network, and found none"
            f" in {', '.join(type(c).__name__ for c in module.children())}: expected"
            " several modules of one class in a list; set it to none"
        )
    mesh = init_device_mesh(device.type, (world_size(),))
    for block in members:  # each one by itself: methods call them as they like
        fully_shard(block, mesh=mesh, reshard_after_forward=True)


def mesh_of(module: nn.Module) -> Any:
    """Return the mesh of the processes that share a module's weights out, or None."""
    for parameter in module.parameters():
        if is_sharded(parameter):
            return parameter.device_mesh
    return None


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Keep all weights whole inside, so that processes compute without each other.

    An evaluation needs it, in which some see fewer batches than others. Synchronises
    the processes at its start.
    """
    shared = [part for part in module.modules() if hasattr(part, "unshard")]
    for part in shared:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in shared:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


# --- what concerns all of a tensor ----------------------------------------------------


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of each tensor, (N,); all of them are sharded, or none.

    Synchronises the processes if they are.
    """
    values = torch.stack(torch._foreach_norm([local(tensor) for tensor in tensors]))
    if not is_sharded(tensors[0]):
        return values
    squares = values.square()
    with waiting():
        dist.all_reduce(squares)
    return squares.sqrt()


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the 2-norm of all tensors together, (), the same on every process.

    Synchronises the processes if one is sharded.
    """
    kinds: tuple[list[Tensor], list[Tensor]] = [], []
    for tensor in tensors:
        kinds[is_sharded(tensor)].append(tensor.detach())
    found = [torch.linalg.vector_norm(norms(kind)) for kind in kinds if kind]
    return found[0] if len(found) == 1 else torch.hypot(*found)


def clip(gradients: Iterable[Tensor], max_norm: float, norm: Tensor) -> None:
    """Scale gradients down to a 2-norm of at most `max_norm`, `norm` being theirs."""
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as nn.utils.clip_grad_norm_
    torch._foreach_mul_([local(gradient) for gradient in gradients], scale)


@torch.no_grad()
def shared_out_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor shared out as another of its shape is; or as it is.

    Every process holds `value`, so nothing is sent.
    """
    if not is_sharded(like) or value.shape != like.shape or is_sharded(value):
        return value
    new = torch.empty_like(like, dtype=value.dtype)
    part = new.to_local()
    before = torch.chunk(value, world_size())
    if len(part):  # small tensors have no row for the last processes
        part.copy_(before[rank()])
    return new
