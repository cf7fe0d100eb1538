"""Rotation prediction's batch; Gidaris et al. 2018, arXiv:1803.07728."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RotationCollate:
    """Replace each image by its four rotations, and its label by their number.

    A `collate_fn`: `data.train.collate_fn={_target_: stable_ssl.data.RotationCollate}`.
    A batch of N images becomes one of 4 N, the rotations of an image side by side.
    """

    def __call__(self, samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, Tensor]:
        """Return images (4 N, C, S, S) and labels (4 N,): quarter turns, 0 to 3.

        Args:
            samples: (image (C, S, S), label) each; the label is dropped.

        Raises:
            ValueError: several views, or images that are not square.
        """
        images = [image for image, _ in samples]
        if isinstance(images[0], list) or images[0].shape[-1] != images[0].shape[-2]:
            found = "several views" if isinstance(images[0], list) else images[0].shape
            raise ValueError(
                f"RotationCollate found {found}; it needs one view of square images"
            )
        x = torch.stack(images)
        turned = torch.stack([x.rot90(turns, (2, 3)) for turns in range(4)], 1)
        labels = torch.arange(4, device=x.device).repeat(len(x))
        return turned.flatten(0, 1), labels
