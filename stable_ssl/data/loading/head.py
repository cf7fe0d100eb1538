"""The part of a view that is made of one sample at a time, before there is a batch.

Ops run here while images still differ in size: those of other libraries, and ours up to
the first that gives all images one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch

from stable_ssl import seeding
from stable_ssl.augment import External, Op, View
from stable_ssl.data.images import pil
from stable_ssl.data.images.decode import Decode, as_given
from stable_ssl.data.images.unreadable import Unreadable
from stable_ssl.schema import ConfigError


class Head:
    """The part of a view before there is a batch; `tail` is the rest, for batches.

    Args:
        ops: of the whole view; those that see one sample come first.
        decode: how an image becomes a tensor.

    Raises:
        ConfigError: ops that see one sample come later, or there are images for none.
    """

    def __init__(self, ops: Sequence[Op | External], decode: Decode):
        external = [i for i, op in enumerate(ops) if isinstance(op, External)]
        fixing = [i for i, op in enumerate(ops) if getattr(op, "fixes_size", False)]
        self.external = list(ops[: len(external)])
        self.decode = decode
        self.finish = Decode() if external else decode  # of what is decoded already
        if external and external[-1] != len(external) - 1:
            raise ConfigError(
                "image_transform: ops by _target_ run one image at a time and come"
                " before those by name, which run on whole batches; move them first"
            )
        self.image_ops = any(op.of_images for op in ops)
        if self.image_ops and not decode.images:
            raise ConfigError(
                "data.decode=false passes on what is no image, and image_transform has"
                " ops for images; remove one of them"
            )
        cut = fixing[0] + 1 if fixing else len(external)
        self.ops = ops[len(external) : cut]
        self.keeps_bytes = all(op.moves_pixels for op in self.ops)
        self.tail = View(ops[cut:], first=cut, images=decode.images)

    def __call__(self, entry: Any, key: int, name: str) -> Any:
        """Return an image as (C, H, W), uint8 or float32; other data as they are.

        Args:
            entry: as the dataset returns it.
            key: of the view.
            name: of the sample, for messages.
        """
        if pil.is_image(entry):
            pil.load(entry, name)  # or ops would meet what is wrong with its file
        if self.external:
            entry = self._prepared(entry, name)
        for i, op in enumerate(self.external):
            entry = op(entry, seeding.fold_in(key, i))
        return self.begin(*self.decoded(entry, name), key)

    def decoded(self, entry: Any, name: str) -> tuple[Any, bool]:
        """Return an image's pixels (C, H, W), or other data, and whether it is one."""
        if not self.decode.applies(entry, self.image_ops):
            return as_given(entry), False
        return self.finish(entry, name, free=bool(self.external)), True

    def begin(self, entry: Any, is_image: bool, key: int) -> Any:
        """Run the batched ops up to the one that fixes the size; see `__call__`."""
        if not is_image:
            return entry
        view = entry[None]
        for i, op in enumerate(self.ops, start=len(self.external)):
            view = op(view, seeding.fold_in(key, i)[None])
        if entry.dtype == torch.uint8 and view.is_floating_point() and self.keeps_bytes:
            view = view.mul_(255).round_().to(torch.uint8)  # of a small image
        return view[0]

    def _prepared(self, entry: Any, name: str) -> Any:
        """Return what the first op that sees one sample gets, and may change.

        An image of bytes, grey or RGB, is one of PIL, and any other a tensor (C, H, W),
        whether it was held in memory or not. An op of one's own gets what `Decode`
        refuses, and what is no image, as the dataset returns it.
        """
        own = self.external[0].own
        if self.decode.applies(entry, False):
            try:
                image = self.decode(entry, name, free=own)
            except ConfigError as error:
                if isinstance(error, Unreadable) or not own:
                    raise
            else:
                if image.dtype != torch.uint8 or len(image) not in (1, 3):
                    return image.clone(memory_format=torch.contiguous_format)
                from torchvision.transforms.functional import to_pil_image

                return to_pil_image(image)
        return deepcopy(entry)
