"""Whether ranks still train one model: a checksum of what is to be alike on all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stable_ssl.distributed.group import all_gather_object

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


@torch.no_grad()
def first_difference(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor whose bits differ between ranks, or None.

    Synchronises ranks and, of GPUs, the host.

    Args:
        tensors: by name, the same names on every rank.
    """
    sums = [_checksum(tensor) for tensor in tensors.values()]
    own = torch.stack(sums).tolist() if sums else []
    everyone = all_gather_object(own)
    for name, values in zip(tensors, zip(*everyone, strict=True), strict=True):
        if len(set(values)) > 1:
            return name
    return None


def _checksum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bits, read as integers, each times its place.

    () int64, which wraps, on the tensor's device; no rounding hides a difference.
    """
    flat = tensor.detach().contiguous().view(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).view(-1)
    words = flat.view(WORDS[flat.element_size()]).long()
    places = torch.arange(1, len(words) + 1, device=words.device)
    return (words * (2 * places + 1)).sum()
