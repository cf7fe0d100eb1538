"""SimCLR by lightly's loss."""

from torch import nn

from tests.references.steps import Reference


class SimCLR(Reference):
    """Chen et al. 2020, https://arxiv.org/abs/2002.05709."""

    source = "eq. 1 by lightly's `NTXentLoss`"
    overrides = ["model.projector=[8,6]", "model.temperature=0.2"]

    def build(self, backbone):
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 6),
        )

    def loss(self, views, labels):
        from lightly.loss import NTXentLoss

        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        return NTXentLoss(temperature=0.2)(z_a, z_b)
