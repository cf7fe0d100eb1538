"""VISReg by the authors' loss, quantiles from Python's statistics."""

from statistics import NormalDist

import torch
from torch import nn
from torch.nn.functional import normalize

from stable_ssl import seeding
from tests.references.steps import IMAGES, Reference

VIEW = "${data.transforms.view}"
NO_BIAS = "no bias before a batch norm"


class VISReg(Reference):
    """Wu et al. 2026, https://arxiv.org/abs/2606.02572."""

    source = "the authors' `visreg.py` and `train.py`; the directions are our draw"
    overrides = [
        f"data.train.dataset.image_transform=[{','.join(3 * [VIEW])}]",
        "model.global_views=2",
        "model.projector=[8,8,6]",
        "model.directions=12",
        "model.weight=0.7",
        "hardware.seed=3",
    ]
    sizes = (8, 8, 4)
    kept = {NO_BIAS: "the norm cancels it; only its running mean tells"}

    def build(self, backbone):
        self.backbone = backbone
        bias = NO_BIAS not in self.aligned
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=bias),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8, bias=bias),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 6),
        )

    def loss(self, views, labels):
        features = [self.backbone(torch.cat(same)) for same in (views[:2], views[2:])]
        z = torch.stack(self.projector(torch.cat(features)).chunk(3))
        distance = (z - (z[0] + z[1]) / 2).square().mean()
        centred = z - z.mean(1, keepdim=True)
        std = centred.square().mean(1).sqrt() + 1e-6
        key = seeding.fold_in(seeding.fold_in(3, self.step), 0)
        directions = normalize(seeding.normal(key, (6, 12)), dim=0).double()
        sketch = (centred / std.detach()[:, None] @ directions).sort(1).values
        normal = NormalDist()
        places = [normal.inv_cdf(i / (IMAGES + 1)) for i in range(1, IMAGES + 1)]
        shape = sketch - torch.tensor(places, dtype=z.dtype)[:, None]
        parts = z.mean(1), std - 1, shape
        return 0.3 * distance + 0.7 * sum(part.square().mean() for part in parts)
