"""The usual image_transforms by name: `image_transform: {_target_: ..., size: 224}`.

Statistics are ImageNet's, as torchvision documents them.
"""

from __future__ import annotations

from typing import Any

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
