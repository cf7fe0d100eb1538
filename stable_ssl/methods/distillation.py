"""Distillation of a frozen teacher, as AM-RADIO: Reduce All Domains Into One, from one.

Ranzinger et al. 2024, https://arxiv.org/abs/2312.06709

A student's features of an image, and of its patches where both networks have some, go
through a perceptron each and are pulled to those of a teacher that is trained already.
The teacher does not change, which prevents collapse.
Differs from the paper: one teacher; a perceptron has no layer norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl import models
from stable_ssl.batch import first_view
from stable_ssl.config import ConfigError, Model, key
from stable_ssl.losses import feature_matching
from stable_ssl.trainer import BaseTrainer


@dataclass
class DistillationConfig(Model):
    """Keys under `model`."""

    teacher: Any = field(default_factory=dict)  # as `backbone`, with weights or so
    hidden: int = key(2048, low=1)  # width of the perceptrons' hidden layers
    patch_weight: float = key(1.0, low=0)  # of patches; 0: images alone, any networks


@contextmanager
def _of_the_teacher() -> Iterator[None]:
    """Let what is said of a backbone name the teacher's key."""
    try:
        yield
    except ConfigError as error:
        said = str(error).replace("model.backbone", "model.teacher")
        raise ConfigError(said) from error


class Distillation(BaseTrainer):
    """Learn a teacher's features; `data.train` yields one view, which both see.

    With patches, backbone and teacher are `vit`, or ViTs of timm by name.
    """

    model_config = DistillationConfig
    views = 1

    def initialize_modules(self) -> None:
        """Build the student, its perceptrons, and the teacher.

        Raises:
            ConfigError: no teacher, or patches are asked for of a network that is no
                ViT.
        """
        model = self.config.model
        if not model.teacher.get("name"):
            raise ConfigError(
                "model.teacher is not set; give the network to learn from, with its"
                " weights: {name: vit_base_patch14_dinov2, pretrained: true}"
            )
        self.backbone = models.backbone(model.backbone)
        with _of_the_teacher():
            self.teacher = models.freeze(models.backbone(model.teacher))
        sizes = self.backbone.dim, model.hidden, self.teacher.dim
        self.projector = models.mlp(*sizes, norm=False, activation=nn.GELU)
        if model.patch_weight:
            models.check_maskable(self.backbone)
            with _of_the_teacher():
                models.check_maskable(self.teacher)
            self.patch_projector = models.mlp(*sizes, norm=False, activation=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> dict[str, Tensor]:
        """Return the distances of images and, weighted, of patches, and features."""
        weight, view = self.config.model.patch_weight, first_view(self.data[0])
        if not weight:
            features = self(view)
            with torch.no_grad():
                target = self.teacher(view)
            loss = feature_matching(self.projector(features), target, 1.0, 0.0)
            return {"loss": loss, "features": features}
        features, patches, grid = _image_and_patches(self.backbone, view)
        with torch.no_grad():
            target, targets, size = _image_and_patches(self.teacher, view)
        predicted = models.resize_patches(self.patch_projector(patches), grid, size)
        of_image = feature_matching(self.projector(features), target, 1.0, 0.0)
        of_patches = feature_matching(predicted, targets)
        parts = {"image_loss": of_image, "patch_loss": of_patches}
        return {"loss": of_image + weight * of_patches, **parts, "features": features}


def _image_and_patches(
    network: nn.Module, view: Tensor
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return a ViT's features (N, D) and patches (N, L, D), and their grid."""
    tokens = models.patch_tokens(network, view)
    (height, width), (high, wide) = view.shape[2:], network.patch_embed.patch_size
    patches = tokens[:, network.num_prefix_tokens :]
    return network.forward_head(tokens), patches, (height // high, width // wide)
