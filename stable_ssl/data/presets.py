"""The usual image_transforms, and a collate_fn, by `{_target_: stable_ssl.data.NAME}`.

Statistics are ImageNet's, as torchvision documents them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stable_ssl.schema import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def train_transforms(
    size: int = 224, scale: tuple[float, float] = (0.08, 1.0)
) -> list[dict[str, Any]]:
    """Return crop, flip and normalisation, as for supervised training.

    Args:
        size: of the output, in pixels.
        scale: range of the crop's area over the image's.
    """
    return [
        {"name": "random_resized_crop", "size": size, "scale": scale},
        {"name": "horizontal_flip"},
        {"name": "normalize", "mean": MEAN, "std": STD},
    ]


def center_crop_transforms(
    size: int = 224, resize: int | None = None
) -> list[dict[str, Any]]:
    """Return resize, centre crop and normalisation, as for evaluation.

    Args:
        size: of the output, in pixels.
        resize: of the shorter side before the crop; None is 8/7 of `size`.
    """
    return [
        {"name": "resize", "size": resize or round(size * 8 / 7)},
        {"name": "center_crop", "size": size},
        {"name": "normalize", "mean": MEAN, "std": STD},
    ]


class RotationCollate:
    """Replace each image by its four rotations, and its label by their number.

    Rotation prediction, Gidaris et al. 2018, https://arxiv.org/abs/1803.07728. A batch
    of N images becomes one of 4 N, the rotations of an image side by side.
    """

    def __call__(self, samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, Tensor]:
        """Return images (4 N, C, S, S) and labels (4 N,): quarter turns, 0 to 3.

        Args:
            samples: (image (C, S, S), label) each; the label is dropped.

        Raises:
            ConfigError: several views, or images that are not square.
        """
        images = [image for image, _ in samples]
        shape = getattr(images[0], "shape", "several views")
        if isinstance(shape, str) or shape[-1] != shape[-2]:
            raise ConfigError(
                f"RotationCollate found {shape}; it needs one view of square images"
            )
        x = torch.stack(images)
        turned = torch.stack([x.rot90(turns, (2, 3)) for turns in range(4)], 1)
        labels = torch.arange(4, device=x.device).repeat(len(x))
        return turned.flatten(0, 1), labels
