"""Ops of one's own, by name: functions of a batch and its keys, or of one sample."""
# ruff: noqa: D102 - Op describes what draw and apply are

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stable_ssl.data.augment.external import External
from stable_ssl.data.augment.op import Op, Params
from stable_ssl.data.batch import mapped


class Own(Op):
    """Call a function with a batch and its keys.

    Args:
        function: `f(x, keys, **arguments)`, of x (N, ...) as the op before it returns
            them, images as float32 in [0, 1], and keys (N,) int64, which seed what
            `stable_ssl.seeding` draws. It returns (N, ...), each row from its own row
            and key alone.
        arguments: by keyword.
    """

    of_images = False
    draws_late = True

    def __init__(self, function: Callable[..., Any], arguments: Mapping[str, Any]):
        self.change = partial(function, **arguments)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        return {"keys": keys}

    def apply(self, x: Any, keys: Tensor) -> Any:
        return self.change(mapped(x, torch.clone), keys)  # which it may change


def build_own(
    function: Callable[..., Any], per_sample: bool, arguments: Mapping[str, Any]
) -> Op | External:
    """Build a function's op: of a sample where it is `per_sample`.

    Raises:
        TypeError: it cannot be called so.
    """
    inspect.signature(function).bind(*[None] * (1 if per_sample else 2), **arguments)
    if per_sample:
        return External(partial(function, **arguments), own=True)
    return Own(function, arguments)
