"""Models: backbones by name and the heads on top of them."""

from stable_ssl.models.backbones import backbone
from stable_ssl.models.heads import mlp

__all__ = ["backbone", "mlp"]
