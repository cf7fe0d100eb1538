"""Data: datasets by name, keyed batched augmentation, resumable loaders."""

from stable_ssl.data.datasets import build_dataset, register_dataset
from stable_ssl.data.loader import Loader, build_loader, build_loaders

__all__ = [
    "Loader",
    "build_dataset",
    "build_loader",
    "build_loaders",
    "register_dataset",
]
