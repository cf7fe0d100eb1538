"""DCL and DCLW by lightly's loss."""

from torch import nn

from tests.references.steps import Reference


class DCL(Reference):
    """Yeh et al. 2022, https://arxiv.org/abs/2110.06848."""

    source = "eq. 6 with the weights of DCLW, by lightly's `DCLWLoss`"
    overrides = [
        "model.projector=[8,6]",
        "model.temperature=0.2",
        "model.weighted=true",
        "model.sigma=0.7",
    ]

    def build(self, backbone):
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 6),
        )

    def loss(self, views, labels):
        from lightly.loss import DCLWLoss

        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        return DCLWLoss(temperature=0.2, sigma=0.7)(z_a, z_b)
