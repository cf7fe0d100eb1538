"""Batched augmentation: torchvision's operations, drawn per image from its key.

An op is `apply(images, **draw(keys, height, width))`. `draw` turns each image's key
into its own parameters, distributed as torchvision's; `apply` is arithmetic on the
batch. Both give an image the same bits whatever the batch it is in and however many
threads run. On the CPU, booleans and per-pixel selections are slow in torch: hence
clamps and signs where one expects `where`. On a GPU nothing here waits for the device.
"""

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
from stable_ssl.data.augment.crop import CenterCrop, RandomResizedCrop, Resize
from stable_ssl.data.augment.geometry import HorizontalFlip, Rotation, Shear
from stable_ssl.data.augment.noise import Erasing, Noise
from stable_ssl.data.augment.replay import Replay
from stable_ssl.data.augment.view import OPS, View, build_ops

__all__ = [
    "OPS",
    "Brightness",
    "CenterCrop",
    "ColorJitter",
    "Contrast",
    "Erasing",
    "GaussianBlur",
    "Grayscale",
    "HorizontalFlip",
    "Hue",
    "Noise",
    "Normalize",
    "RandomResizedCrop",
    "Replay",
    "Resize",
    "Rotation",
    "Saturation",
    "Shear",
    "Solarize",
    "View",
    "build_ops",
]
