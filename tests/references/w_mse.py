"""W-MSE by the authors' head and lightly's loss, whose permutation is the method's."""

from unittest import mock

import torch
from torch import nn

from stable_ssl import seeding
from tests.references.steps import IMAGES, Reference

NO_BIAS = "no bias before a batch norm or the whitening"


class WMSE(Reference):
    """Ermolov et al. 2021, https://arxiv.org/abs/2007.06346."""

    source = "the authors' `w_mse.py` by lightly's `WMSELoss`, in two parts of 8 images"
    kept = {NO_BIAS: "they cancel it; only a running mean tells"}
    overrides = ["model.projector=[24,4]", "model.part=8", "model.epsilon=0.01"]

    def build(self, backbone):
        from lightly.loss.wmse_loss import WMSELoss

        bias = NO_BIAS not in self.aligned
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 24, bias=bias),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Linear(24, 4, bias=bias),
        )
        sizes = {"embedding_dim": 4, "w_size": 8, "eps": 0.01}
        self.criterion = WMSELoss(**sizes, track_running_stats=False)

    def loss(self, views, labels):
        z = self.projector(torch.cat([self.backbone(view) for view in views]))
        with mock.patch("torch.randperm", lambda n: self.permutation()):
            return self.criterion(z)

    def permutation(self):
        """Return which images are whitened together, as the method draws them."""
        key = seeding.fold_in(seeding.fold_in(0, self.step), 0)  # of a step, seed 0
        return seeding.bits(seeding.fold_in(key, torch.arange(IMAGES))).argsort()
