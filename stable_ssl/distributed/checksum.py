"""Whether ranks still train one model: a checksum of what all of them must share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stable_ssl.distributed.group import all_gather_object, world_size
from stable_ssl.distributed.sharding import is_sharded
from stable_ssl.schema import ConfigError

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


@torch.no_grad()
def refuse_differences(
    module: nn.Module,
    optimizers: Mapping[str, Optimizer],
    others: Mapping[str, Any],
    step: int,
) -> None:
    """Refuse to go on where ranks do not train one model any more.

    Synchronises ranks and, of GPUs, the host.

    Args:
        module: whose state is to be alike on all ranks, what is sharded aside.
        optimizers: by name, whose state is, too.
        others: by name, what is trained beside the module and has a `state_dict`.
        step: of now.

    Raises:
        ConfigError: names the first tensor whose bits differ.
    """
    if world_size() == 1:
        return
    state = dict(module.state_dict(keep_vars=True))
    state |= {name: other.state_dict() for name, other in others.items()}
    for name, optimizer in optimizers.items():
        groups = optimizer.param_groups
        for i, parameter in enumerate(p for g in groups for p in g["params"]):
            for entry, value in optimizer.state.get(parameter, {}).items():
                state[f"optimizer {name}, {entry} of parameter {i}"] = value
    tensors = dict(_tensors(state))
    sums = [_checksum(tensor) for tensor in tensors.values()]
    # Adam counts steps on the CPU, whatever the device of the weights
    local_sums = torch.stack([one.to(sums[0].device) for one in sums]).tolist()
    by_tensor = zip(*all_gather_object(local_sums), strict=True)
    for name, checksums in zip(tensors, by_tensor, strict=True):
        if len(set(checksums)) > 1:
            raise ConfigError(
                f"the ranks do not train one model any more: {name} differs by step"
                f" {step}; who changes weights by hand does it alike on every rank, who"
                " reads gradients before the step calls self.average_gradients()"
            )


def _tensors(value: Any, at: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state, however nested, each by its path."""
    if isinstance(value, Tensor):
        if not is_sharded(value):
            yield at, value
    elif isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _tensors(entry, f"{at}.{name}" if at else str(name))


def _checksum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bits, read as integers, each times its position.

    () int64, which wraps, on the tensor's device; no rounding hides a difference.
    """
    flat = tensor.detach().contiguous().view(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).view(-1)
    integers = flat.view(INTEGERS[flat.element_size()]).long()
    positions = torch.arange(1, len(integers) + 1, device=integers.device)
    return (integers * (2 * positions + 1)).sum()
