"""Models: backbones by name, the heads on top of them, teachers and queues."""

from stable_ssl.models.backbones import backbone
from stable_ssl.models.ema import EMA, momentum
from stable_ssl.models.heads import DINOHead, Prototypes, mlp
from stable_ssl.models.queue import Queue

__all__ = ["EMA", "DINOHead", "Prototypes", "Queue", "backbone", "mlp", "momentum"]
