"""A view of a batch: ops by name, drawn and applied in turn."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.data.augment.blur import GaussianBlur
from stable_ssl.data.augment.colour import (
    Brightness,
    ColorJitter,
    Contrast,
    Grayscale,
    Hue,
    Normalize,
    Saturation,
    Solarize,
)
from stable_ssl.data.augment.crop import (
    CenterCrop,
    RandomResizedCrop,
    Resize,
    as_float,
)
from stable_ssl.data.augment.foreign import Foreign, build_foreign
from stable_ssl.data.augment.geometry import HorizontalFlip, Rotation, Shear
from stable_ssl.data.augment.noise import Erasing, Noise
from stable_ssl.data.augment.op import Op, Params, check, on_gpu

CHUNK = 2**19  # values that, with their temporaries, stay in a cache of the CPU

OPS: dict[str, type[Op]] = {
    "random_resized_crop": RandomResizedCrop,
    "resize": Resize,
    "center_crop": CenterCrop,
    "horizontal_flip": HorizontalFlip,
    "rotation": Rotation,
    "shear": Shear,
    "brightness": Brightness,
    "contrast": Contrast,
    "saturation": Saturation,
    "hue": Hue,
    "color_jitter": ColorJitter,
    "grayscale": Grayscale,
    "gaussian_blur": GaussianBlur,
    "solarize": Solarize,
    "noise": Noise,
    "erasing": Erasing,
    "normalize": Normalize,
}


def build_ops(specs: Sequence[Any]) -> list[Op | Foreign]:
    """Build the ops of a view.

    Args:
        specs: {name, any of the op's arguments}; {_target_, arguments} or a callable
            of another library, run one image at a time; None is skipped.

    Raises:
        ValueError: an unknown name (with the nearest), argument, or value.
    """
    return [_build(spec) for spec in specs if spec is not None]


def _build(spec: Mapping[str, Any]) -> Op | Foreign:
    if callable(spec) or (isinstance(spec, Mapping) and "_target_" in spec):
        return build_foreign(spec)
    check(
        isinstance(spec, Mapping) and "name" in spec,
        f"augmentation {spec!r}",
        "expected a mapping with a name; e.g. {name: horizontal_flip, p: 0.5}",
    )
    name, arguments = spec["name"], {k: v for k, v in spec.items() if k != "name"}
    if name not in OPS:
        near = difflib.get_close_matches(str(name), OPS, 1, 0)
        near = f"did you mean {near[0]!r}? Known: {', '.join(OPS)}"
        raise ValueError(f"no augmentation {name!r}; {near}")
    known = [field.name for field in fields(OPS[name])]
    takes = f"it takes {', '.join(known)}"
    for argument in arguments:
        check(argument in known, f"{name} takes no {argument!r}", takes)
    try:
        return OPS[name](**arguments)
    except TypeError as error:  # an argument is missing, or is no number
        raise ValueError(f"{name}: {error}; {takes}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


class View:
    """Make one view of a batch: the ops in turn, op i drawn from `fold_in(keys, i)`.

    Args:
        ops: of the view.
        first: number of the first of them, for the second part of a view in two parts.
    """

    def __init__(self, ops: Sequence[Op], first: int = 0):
        self.ops, self.first = list(ops), first

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Return the view (N, C, H', W') float32.

        Args:
            images: (N, C, H, W), uint8, or float in [0, 1]; left as they are.
            keys: (N,) int64, on the same device.
        """
        n, size, params = len(images), tuple(images.shape[-2:]), []
        for i, op in enumerate(self.ops):
            params.append(op.draw(seeding.fold_in(keys, self.first + i), *size))
            size = op.out_size(*size)
        if on_gpu(images) or n == 0:
            return self._apply(images, params)
        step = max(1, CHUNK // images[0].numel())
        if n <= step:
            return self._apply(images, params)
        view = images.new_empty(n, images.shape[1], *size, dtype=torch.float32)
        for start in range(0, n, step):
            part = slice(start, start + step)
            some = [{name: p[part] for name, p in drawn.items()} for drawn in params]
            view[part] = self._apply(images[part], some)
        return view

    def compile(self) -> View:
        """Let torch.compile fuse the ops; equal to rounding, no longer to the bit.

        What draws stays outside: compiled for a CPU by torch 2.15, a product of int64
        that wraps, plus a broadcast key, is wrong in a third of the places.
        """
        for op in self.ops:
            if op.draws_late:
                op.apply = torch.compiler.disable(op.apply)
        self._apply = torch.compile(self._apply, dynamic=False)
        return self

    def _apply(self, x: Tensor, params: Sequence[Params]) -> Tensor:
        if not (self.ops and isinstance(self.ops[0], RandomResizedCrop)):
            x = as_float(x)  # a crop makes float what it keeps
        for op, drawn in zip(self.ops, params, strict=True):
            x = op.apply(x, **drawn)
        return x
