"""DeepCluster v2: clusters of the last epoch's projections are this epoch's classes.

Caron et al. 2020, https://arxiv.org/abs/2006.09882, appendix

Before an epoch k-means clusters what the network projected of the large views of all
images; from every view, small crops too, it then predicts its image's cluster. The
classifier is the centroids, not trained, so that it changes as the clusters do. All of
them are images at first, unlike one another: that prevents collapse.
Differs from the authors' code: no bias before a batch norm, which would cancel it; and
a memory by image, in which those that the last epoch left out keep their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stable_ssl.batch import batches_from, known_length
from stable_ssl.config import ConfigError, Model, key
from stable_ssl.losses import deepcluster
from stable_ssl.models import ClusterMemory, backbone, encode_views, mlp
from stable_ssl.trainer import BaseTrainer
from stable_ssl.vectors import unit


@dataclass
class DeepClusterV2Config(Model):
    """Keys under `model`."""

    images: int = key(1281167, low=1)  # of the train data, all of which have a place
    global_views: int = key(2, low=1)  # leading views that are clustered, in turn
    projector: list[int] = key([2048, 128], low=1)  # widths
    clusterings: int = key(3, low=1)  # each with centroids of its own
    prototypes: int = key(3000, low=2)  # K, centroids of a clustering
    iterations: int = key(10, low=1)  # of k-means
    temperature: float = key(0.1, above=0)  # of the predictions


class DeepClusterV2(BaseTrainer):
    """Predict clusters; `data.train` yields the large views first."""

    model_config = DeepClusterV2Config
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the backbone, the projector and the memory."""
        model = self.config.model
        if self.train_loader is not None:
            self.check_images()
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector)
        sizes = model.projector[-1], model.clusterings, model.prototypes
        self.memory = ClusterMemory(model.images, model.global_views, *sizes)

    def check_images(self) -> None:
        """Refuse data whose images have no place in the memory, or are not known."""
        found = known_length(getattr(self.train_loader, "dataset", None))
        if found != self.config.model.images or not hasattr(self.train_loader, "index"):
            raise ConfigError(
                f"model.images={self.config.model.images} and train data of {found}:"
                " give a dataset, of any length that model.images states, not a loader"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def project(self, views: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return features of the views, and their projections of norm 1."""
        features = encode_views(self, views)
        return features, [unit(z) for z in encode_views(self.projector, features)]

    def before_train_epoch(self) -> None:
        """Fill the memory, before the first epoch; cluster it."""
        seed, end = self.config.hardware.seed, self.batches_per_epoch
        if self.step == 0:
            for views, *_ in batches_from(self.train_loader, 0, 0, end, self.device):
                with torch.no_grad(), self.autocast():
                    self.remember(self.project(views)[1])
        self.memory.cluster(seed, self.epoch, self.config.model.iterations)

    def compute_loss(self) -> dict[str, Any]:
        """Return the cross-entropy of the clusters, and features; keep projections."""
        model, (views, *_), memory = self.config.model, self.data, self.memory
        features, z = self.project(views)
        assignments = memory.assignments[self.images_of_batch()]
        loss = deepcluster(z, memory.centroids, assignments, model.temperature)
        if self.training:
            self.remember(z)
        return {"loss": loss, "features": features}

    @torch.compiler.disable
    def images_of_batch(self) -> Tensor:
        """Return which images of the train data the micro-batch has, (N,)."""
        return self.train_loader.index.to(self.device)

    @torch.compiler.disable
    def remember(self, z: list[Tensor]) -> None:
        """Keep the projections of the micro-batch's large views."""
        self.memory.remember(self.images_of_batch(), z)
