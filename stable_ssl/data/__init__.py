"""Data: datasets by name, keyed batched augmentation, resumable loaders."""

from stable_ssl.data.augment import register_op
from stable_ssl.data.build import build_loader, build_loaders
from stable_ssl.data.combined import Combined
from stable_ssl.data.datasets import build_dataset, register_dataset
from stable_ssl.data.loader import Loader
from stable_ssl.data.presets import (
    RotationCollate,
    center_crop_transforms,
    train_transforms,
)
from stable_ssl.data.unreadable import Unreadable

__all__ = [
    "Combined",
    "Loader",
    "RotationCollate",
    "Unreadable",
    "build_dataset",
    "build_loader",
    "build_loaders",
    "center_crop_transforms",
    "register_dataset",
    "register_op",
    "train_transforms",
]
