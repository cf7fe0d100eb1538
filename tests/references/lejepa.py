"""LeJEPA by the listings of its paper."""

import torch
from torch import nn
from torch.nn.functional import normalize

from stable_ssl import seeding
from tests.references.steps import Reference

VIEW = "${data.transforms.view}"
NO_BIAS = "no bias before a batch norm"


class LeJEPA(Reference):
    """Balestriero and LeCun 2025, https://arxiv.org/abs/2511.08544."""

    source = "the authors' `MINIMAL.md`; the directions are this library's draw"
    overrides = [
        f"data.train.dataset.image_transform=[{','.join(4 * [VIEW])}]",
        "model.global_views=4",
        "model.projector=[8,8,6]",
        "model.directions=12",
        "model.weight=0.1",
        "hardware.seed=3",
    ]
    sizes = (8, 8, 8, 8)
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
        z = torch.stack(self.projector(self.backbone(torch.cat(views))).chunk(4))
        invariance = (z.mean(0) - z).square().mean()
        key = seeding.fold_in(seeding.fold_in(3, self.step), 0)
        directions = normalize(seeding.normal(key, (6, 12)), dim=0).double()
        t = torch.linspace(0, 3, 17, dtype=torch.float64)
        weights = torch.full((17,), 2 * 3 / 16, dtype=torch.float64)
        weights[0] = weights[-1] = 3 / 16
        phi = (-t.square() / 2).exp()
        x = (z @ directions)[..., None] * t  # (views, images, directions, t)
        real, imaginary = x.cos().mean(1), x.sin().mean(1)
        error = (real - phi).square() + imaginary.square()
        sigreg = (error @ (weights * phi)).mean() * z.shape[1]
        return 0.1 * sigreg + (1 - 0.1) * invariance
