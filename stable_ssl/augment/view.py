"""A view of a batch: ops drawn and applied in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.augment.op import Op, Params, as_float, on_gpu

CHUNK = 2**18  # values at a time, so that with temporaries they fit a CPU's cache


class View:
    """Make one view of a batch: the ops in turn, op i drawn from `fold_in(keys, i)`.

    Args:
        ops: of the view.
        first: number of the first op; not 0 for the second part of a view.
        images: whether (N, C, H, W) are images, and not data of another kind.
    """

    def __init__(self, ops: Sequence[Op], first: int = 0, images: bool = True):
        self.ops, self.first, self.images = list(ops), first, images
        self.applies = [op.apply for op in ops]
        self.apply = self._apply_all

    def __call__(self, images: Any, keys: Tensor) -> Any:
        """Return the view (N, C, H', W') float32.

        Args:
            images: (N, C, H, W), uint8, or float in [0, 1]; left as they are. Data of
                other kinds, (N, ...) or a dict of such, are for ops of one's own.
            keys: (N,) int64, on the same device.

        Raises:
            ConfigError: an op is not made for such images.
        """
        if not (self.images and isinstance(images, Tensor) and images.ndim == 4):
            for i, op in enumerate(self.ops):
                params = op.draw(seeding.fold_in(keys, self.first + i), 0, 0)
                images = op.apply(images, **params)
            return images
        n, size, params = len(images), tuple(images.shape[-2:]), []
        for i, op in enumerate(self.ops):
            op.check_images(images.shape[1], *size)
            params.append(op.draw(seeding.fold_in(keys, self.first + i), *size))
            size = op.out_size(*size)
        whole_batch = on_gpu(images) or n == 0
        step = n if whole_batch else max(1, CHUNK // images[0].numel())
        if n <= step:
            return self.apply(images, params)
        view = None
        for start in range(0, n, step):
            rows = slice(start, start + step)
            drawn = [{name: p[rows] for name, p in op.items()} for op in params]
            part = self.apply(images[rows], drawn)
            if view is None:
                view = part.new_empty(n, *part.shape[1:])
            view[rows] = part
        return view

    def compile(self) -> View:
        """Let torch.compile fuse the ops; equal to rounding, no longer to the bit.

        Ops that draw are left out: torch 2.15 compiles the key arithmetic for a CPU, an
        int64 product that wraps plus a broadcast key, to wrong numbers.
        """
        for i, op in enumerate(self.ops):
            if op.draws_late:
                self.applies[i] = torch.compiler.disable(op.apply)
        self.apply = torch.compile(self._apply_all, dynamic=False)
        return self

    def _apply_all(self, x: Tensor, params: Sequence[Params]) -> Tensor:
        for op, apply, drawn in zip(self.ops, self.applies, params, strict=True):
            x = apply(x if op.moves_pixels else as_float(x), **drawn)
        return as_float(x)
