"""SimSiam by its algorithm 1."""

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from tests.references.steps import DECAY, LR, MOMENTUM, Reference

NO_BIAS = "the projector's last layer has no bias"


class SimSiam(Reference):
    """Chen and He 2021, https://arxiv.org/abs/2011.10566."""

    source = "algorithm 1; the authors' `builder.py` and `main_simsiam.py`"
    overrides = [
        "model.projector=[8,8,6]",
        "model.predictor=4",
        "optim.groups=[{pattern: predictor, schedule: false}]",
    ]
    kept = {NO_BIAS: "the authors freeze it as it was drawn, and the norm cancels it"}

    def build(self, backbone):
        self.backbone = backbone
        last = nn.Linear(8, 6, bias=NO_BIAS not in self.aligned)
        if last.bias is not None:
            last.bias.requires_grad_(False)
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            last,
            nn.BatchNorm1d(6, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 6)
        )

    def loss(self, views, labels):
        z_1, z_2 = (self.projector(self.backbone(view)) for view in views)
        p_1, p_2 = self.predictor(z_1), self.predictor(z_2)
        first = cosine_similarity(p_1, z_2.detach()).mean()
        return -(first + cosine_similarity(p_2, z_1.detach()).mean()) / 2

    def optimizer(self):
        def groups(module, fixed):
            own = [p for p in module.parameters() if p.requires_grad]
            matrices = [p for p in own if p.ndim > 1]
            others = [p for p in own if p.ndim < 2]
            yield {"params": matrices, "weight_decay": DECAY, "fixed": fixed}
            yield {"params": others, "weight_decay": 0.0, "fixed": fixed}

        encoder = nn.Sequential(self.backbone, self.projector)
        both = [*groups(encoder, False), *groups(self.predictor, True)]
        return torch.optim.SGD(both, lr=LR, momentum=MOMENTUM)

    def set_rates(self, optimizer):
        super().set_rates(optimizer)
        for group in optimizer.param_groups:
            if group["fixed"]:
                group["lr"] = LR
