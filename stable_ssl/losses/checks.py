"""What losses do to their inputs: widen and check them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

from stable_ssl import distributed

P = ParamSpec("P")
SEQUENCES = (list, tuple)  # no union: torch 2.6 may not compile that


def in_float32(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Compute a loss in float32, or float64 if its inputs are, whatever the autocast.

    Half-precision tensors among its arguments, and in sequences of them, are widened.
    """

    @wraps(loss)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        tensors = _tensors([*args, *kwargs.values()])
        device = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device, enabled=False):
            widened = {name: _widen(x) for name, x in kwargs.items()}
            return loss(*map(_widen, args), **widened)

    return wrapper


def _tensors(x: Any) -> list[Tensor]:
    if isinstance(x, SEQUENCES):
        return [tensor for item in x for tensor in _tensors(item)]
    return [x] if isinstance(x, Tensor) else []


def _widen(x: Any) -> Any:
    if isinstance(x, SEQUENCES):
        return [_widen(item) for item in x]
    if isinstance(x, Tensor) and x.is_floating_point():
        return x.to(torch.promote_types(x.dtype, torch.float32))
    return x


def check_rows(name: str, *tensors: Tensor, minimum: int = 1) -> int:
    """Return the rows over all ranks of tensors that share one shape (N, D).

    Args:
        name: of the loss, for the error.
        tensors: one or more, each with this rank's rows.
        minimum: rows over all ranks that the loss needs.

    Raises:
        ValueError: the shapes differ or are not (N, D), or the rows are too few.
    """
    if tensors[0].ndim != 2 or any(z.shape != tensors[0].shape for z in tensors):
        shapes = " and ".join(str(tuple(z.shape)) for z in tensors)
        raise ValueError(
            f"{name} found shapes {shapes}, expected the same (N, D) for all; flatten"
            " what has more dimensions, and pair rows of the same images"
        )
    n = len(tensors[0]) * distributed.world_size()
    if n < minimum:
        raise ValueError(
            f"{name} found N={n} over all ranks, expected {minimum} or more; use a"
            " larger batch (and drop_last, if the last one is smaller)"
        )
    return n


def check_width(name: str, what: str, vectors: Tensor, rows: Tensor) -> None:
    """Raise ValueError for vectors that are not (K, D), D being the rows'."""
    if vectors.ndim != 2 or vectors.shape[1] != rows.shape[1]:
        raise ValueError(
            f"{name} found {what} of shape {tuple(vectors.shape)} beside rows of"
            f" {tuple(rows.shape)}; use (K, {rows.shape[1]})"
        )


def check_directions(name: str, directions: Tensor, z: Tensor) -> None:
    """Raise ValueError for directions that are not (D, M), z being (N, D)."""
    if directions.ndim != 2 or len(directions) != z.shape[1]:
        raise ValueError(
            f"{name} found directions of shape {tuple(directions.shape)} for features"
            f" of {tuple(z.shape)}; use ({z.shape[1]}, M), normalised columns"
        )


def check_positive(name: str, **values: float) -> None:
    """Raise ValueError for a value that is not above 0, by its name."""
    for argument, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} found {argument}={value}; use one above 0")
