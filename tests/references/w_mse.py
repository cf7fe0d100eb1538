"""W-MSE by lightly's loss, whose permutation is the method's."""

from unittest import mock

import torch
from torch import nn

from stable_ssl import seeding
from tests.references.steps import IMAGES, Reference


class WMSE(Reference):
    """Ermolov et al. 2021, https://arxiv.org/abs/2007.06346."""

    source = "lightly's `WMSELoss`, in two parts of 8 images"
    overrides = ["model.projector=[24,4]", "model.part=8", "model.epsilon=0.01"]

    def build(self, backbone):
        from lightly.loss.wmse_loss import WMSELoss

        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 24, bias=False),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Linear(24, 4, bias=False),
        )
        sizes = {"embedding_dim": 4, "w_size": 8, "eps": 0.01}
        self.criterion = WMSELoss(**sizes, track_running_stats=False)

    def loss(self, views, labels):
        z = torch.cat([self.projector(self.backbone(view)) for view in views])
        with mock.patch("torch.randperm", lambda n: self.permutation()):
            return self.criterion(z)

    def permutation(self):
        """Return which images are whitened together, as the method draws them."""
        key = seeding.fold_in(seeding.fold_in(0, self.step), 0)  # of a step, seed 0
        return seeding.bits(seeding.fold_in(key, torch.arange(IMAGES))).argsort()
