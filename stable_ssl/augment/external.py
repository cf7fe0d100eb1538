"""Ops that somebody else wrote: of one sample at a time, or of a batch and its keys."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.augment.op import Op
from stable_ssl.batch import mapped
from stable_ssl.schema import ConfigError, described


class External:
    """Call a transform of torchvision, albumentations or the user, seeded by a key.

    The transform gets what the dataset returns, or the one before it; albumentations'
    get arrays (H, W, C). The last returns what `Decode` takes, where floats need not be
    in [0, 1].

    Args:
        transform: called with the image alone; every global generator is seeded.
        own: whether it is the user's, and takes what no other would.
    """

    of_images = False  # it may be of any data
    needs_range = False  # what it needs is its library's affair

    def __init__(self, transform: Callable[[Any], Any], own: bool = False):
        self.transform, self.own = transform, own
        package = type(transform).__module__.partition(".")[0]
        self.of_albumentations = package in ("albumentations", "albumentationsx")
        parts = getattr(transform, "transforms", None)  # of torchvision's Compose
        parts = [transform, *(parts if isinstance(parts, (list, tuple)) else ())]
        self.leaves_range = not own and "Normalize" in {type(t).__name__ for t in parts}

    def __call__(self, image: Any, key: Tensor) -> Any:
        """Transform one image; key () int64.

        Raises:
            ConfigError: the transform raised another error than those of reading files.
        """
        try:
            with seeding.keyed(key):
                return self._transformed(image, key)
        except (OSError, SyntaxError, ConfigError):  # of an image that is read late
            raise
        except Exception as error:
            raise ConfigError(
                f"image_transform: {type(self.transform).__name__} refuses a"
                f" {type(image).__name__}: {described(error)}"
            ) from error

    def _transformed(self, image: Any, key: Tensor) -> Any:
        if not self.of_albumentations:
            return self.transform(image)
        import numpy

        if hasattr(self.transform, "set_random_seed"):
            # since version 1.4 it draws from generators of its instance
            self.transform.set_random_seed(int(key) % 2**32)
        if isinstance(image, Tensor):
            image = image.permute(*range(1, image.ndim), 0).numpy()
        return self.transform(image=numpy.asarray(image))["image"]


class BatchFunction(Op):
    """Call the user's function with a batch and its keys.

    Args:
        function: `f(x, keys)`, of x (N, ...) as the op before it returns them, images
            as float32 in [0, 1], and keys (N,) int64, which seed what
            `stable_ssl.seeding` draws. It returns (N, ...), each row from its own row
            and key alone.
    """

    of_images = False
    draws_late = True

    def __init__(self, function: Callable[[Any, Tensor], Any]):
        self.function = function

    def apply(self, x: Any, keys: Tensor) -> Any:
        return self.function(mapped(x, torch.clone), keys)  # which it may change
