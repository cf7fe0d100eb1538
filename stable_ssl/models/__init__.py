"""Models: backbones by name, the heads on top of them, teachers, queues and masks."""

from stable_ssl.models.backbones import backbone
from stable_ssl.models.center import Center
from stable_ssl.models.cluster_memory import ClusterMemory, spherical_kmeans
from stable_ssl.models.ema import EMA, momentum
from stable_ssl.models.freeze import freeze
from stable_ssl.models.heads import DINOHead, Directions, Prototypes, mlp
from stable_ssl.models.masked_vit import (
    block_outputs,
    check_maskable,
    gather_patches,
    patch_tokens,
    pixel_patches,
    resize_patches,
)
from stable_ssl.models.masking import (
    block_masks,
    blockwise_masks,
    hidden_first,
    hide_in_views,
    random_masks,
)
from stable_ssl.models.modifiers import register_modifier
from stable_ssl.models.queue import Queue
from stable_ssl.models.views import encode_views
from stable_ssl.models.vit import draw_weights, sincos_positions, transformer_blocks

__all__ = [
    "EMA",
    "Center",
    "ClusterMemory",
    "DINOHead",
    "Directions",
    "Prototypes",
    "Queue",
    "backbone",
    "block_masks",
    "block_outputs",
    "blockwise_masks",
    "check_maskable",
    "draw_weights",
    "encode_views",
    "freeze",
    "gather_patches",
    "hidden_first",
    "hide_in_views",
    "mlp",
    "momentum",
    "patch_tokens",
    "pixel_patches",
    "random_masks",
    "register_modifier",
    "resize_patches",
    "sincos_positions",
    "spherical_kmeans",
    "transformer_blocks",
]
