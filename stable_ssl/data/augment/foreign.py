"""Ops of other libraries: one sample at a time, with every generator keyed before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from stable_ssl import seeding
from stable_ssl.data.augment.op import Op
from stable_ssl.objects import build_object


class Foreign:
    """Call a transform of torchvision, albumentations or one's own, keyed.

    The transform gets a PIL image, or what the one before it returned; albumentations'
    get arrays (H, W, C). The last returns a PIL image, an array (H, W, C) or a tensor
    (C, H, W), uint8 or float.

    Args:
        transform: called with the image alone.
    """

    def __init__(self, transform: Callable[[Any], Any]):
        own = type(transform).__module__.partition(".")[0]
        self.transform = transform
        if own in ("albumentations", "albumentationsx"):
            self.transform = _Albumentations(transform)

    def __call__(self, image: Any, key: Tensor) -> Any:
        """Transform one image; key () int64."""
        with seeding.keyed(key):
            if isinstance(self.transform, _Albumentations):
                self.transform.seed(key)
            return self.transform(image)


class _Albumentations:
    """Give an albumentations transform an array, and seed its own generator.

    Since version 1.4 they draw from generators of their own, which the global seeds
    do not reach.
    """

    def __init__(self, transform: Any):
        self.transform = transform

    def seed(self, key: Tensor) -> None:
        if hasattr(self.transform, "set_random_seed"):
            self.transform.set_random_seed(int(key) % 2**32)

    def __call__(self, image: Any) -> Any:
        import numpy

        return self.transform(image=numpy.asarray(image))["image"]


def build_foreign(spec: Mapping[str, Any] | Callable) -> Foreign | Op:
    """Build an op from {_target_: dotted path, arguments}, or from what that builds.

    Raises:
        ValueError: what `build_object` refuses, or no callable.
    """
    made = build_object(spec, "_target_") if isinstance(spec, Mapping) else spec
    if not callable(made):
        raise ValueError(f"{made!r} is no transform: it cannot be called")
    return made if isinstance(made, Op) else Foreign(made)
