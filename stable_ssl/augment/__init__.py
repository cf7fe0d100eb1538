"""Batched augmentation: torchvision's operations, drawn per image from its key.

An op is `apply(images, **draw(keys, height, width))`. `draw` turns each image's key
into parameters with torchvision's distribution; `apply` is arithmetic on the batch.
Both give an image the same bits in any batch and with any number of threads. Boolean
masks and `where` are slow in torch on the CPU, so clamps and signs replace them. On a
GPU nothing here waits for the device.
"""

from stable_ssl.augment.blur import GaussianBlur
from stable_ssl.augment.colour import ColorJitter, Grayscale, Normalize, Solarize
from stable_ssl.augment.crop import CenterCrop, RandomResizedCrop, Resize
from stable_ssl.augment.cuda_graph import Replay
from stable_ssl.augment.external import External
from stable_ssl.augment.geometry import HorizontalFlip, Rotation, Shear
from stable_ssl.augment.noise import Erasing, Noise
from stable_ssl.augment.op import Op
from stable_ssl.augment.registry import OPS, build_ops, register_op
from stable_ssl.augment.view import View

__all__ = ["OPS", "External", "Op", "Replay", "View", "build_ops", "register_op"]
__all__ += ["CenterCrop", "ColorJitter", "Erasing", "GaussianBlur", "Grayscale"]
__all__ += ["HorizontalFlip", "Noise", "Normalize", "RandomResizedCrop", "Resize"]
__all__ += ["Rotation", "Shear", "Solarize"]
