"""Models: backbones by name, the heads on top of them, teachers, queues and masks."""

from stable_ssl.models.backbones import backbone
from stable_ssl.models.ema import EMA, momentum
from stable_ssl.models.freeze import freeze
from stable_ssl.models.heads import DINOHead, Prototypes, mlp
from stable_ssl.models.masking import block_masks, random_masks
from stable_ssl.models.modifiers import register_modifier
from stable_ssl.models.queue import Queue
from stable_ssl.models.vit import Block, Blocks, ViT, positions, take

__all__ = [
    "EMA",
    "Block",
    "Blocks",
    "DINOHead",
    "Prototypes",
    "Queue",
    "ViT",
    "backbone",
    "block_masks",
    "freeze",
    "mlp",
    "momentum",
    "positions",
    "random_masks",
    "register_modifier",
    "take",
]
