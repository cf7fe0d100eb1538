"""Models: backbones by name, the heads on top of them, teachers, queues and masks."""

from stable_ssl.models.backbones import backbone
from stable_ssl.models.cluster_memory import ClusterMemory, spherical_kmeans
from stable_ssl.models.ema import EMA, momentum
from stable_ssl.models.freeze import freeze
from stable_ssl.models.heads import DINOHead, Prototypes, mlp
from stable_ssl.models.masked_vit import check_maskable, gather_patches, patch_tokens
from stable_ssl.models.masking import block_masks, random_masks
from stable_ssl.models.modifiers import register_modifier
from stable_ssl.models.queue import Queue
from stable_ssl.models.views import encode_views
from stable_ssl.models.vit import sincos_positions, transformer_blocks

__all__ = [
    "EMA",
    "ClusterMemory",
    "DINOHead",
    "Prototypes",
    "Queue",
    "backbone",
    "block_masks",
    "check_maskable",
    "encode_views",
    "freeze",
    "gather_patches",
    "mlp",
    "momentum",
    "patch_tokens",
    "random_masks",
    "register_modifier",
    "sincos_positions",
    "spherical_kmeans",
    "transformer_blocks",
]
