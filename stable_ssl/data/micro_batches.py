"""The batches of an epoch from any step on, grouped into optimizer steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from stable_ssl.data.loader import on_device


def micro_batches(
    loader: Iterable[Any],
    epoch: int,
    start: int,
    end: int,
    accumulate: int,
    device: torch.device,
) -> Iterator[tuple[Any, int, int]]:
    """Yield (batch, its place in its step, micro-batches of that step).

    `accumulate` micro-batches make a step, and what is left over the last one.

    Args:
        loader: with `set_epoch(epoch, start)` it begins where it is told, otherwise
            what comes before is read and dropped.
        epoch: counted from 0.
        start: the first batch, counted from 0; the first of its step.
        end: one past the last.
        accumulate: micro-batches a step.
        device: the batches are moved there.
    """
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch, start)
        batches = islice(loader, end - start)
    else:
        batches = on_device(islice(loader, start, end), device)
    for index, batch in enumerate(batches, start):
        place = index % accumulate
        yield batch, place, min(accumulate, end - (index - place))
