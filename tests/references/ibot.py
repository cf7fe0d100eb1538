"""iBOT as the authors' code has it."""

import copy
import math

import torch
from torch import nn

from tests.references._tokens import (
    SMALL_VIEW,
    VIT,
    Head,
    TokenReference,
    follow,
    hidden_blocks,
    tokens,
)
from tests.references.steps import IMAGES, STEPS


class IBOT(TokenReference):
    """Zhou et al. 2022, https://arxiv.org/abs/2111.07832, with a shared head."""

    source = "main_ibot.py and models/head.py of bytedance/ibot, --shared_head true"
    sizes = (8, 8, 4)
    overrides = [
        *VIT,
        *SMALL_VIEW,
        "model.hidden=32",
        "model.bottleneck=6",
        "model.prototypes=5",
        "model.mask_block=1",
        "model.warmup_temperature=0.04",
        "model.teacher_temperature=0.06",
        "model.patch_temperature=0.07",
        "model.warmup_epochs=3",
        "model.freeze_epochs=1",
        "model.momentum=0.9",
        "model.center_momentum=0.9",
    ]

    def build(self, backbone):
        self.backbone = backbone
        self.head = Head()
        self.mask_token = nn.Parameter(torch.zeros(8))
        student = {"backbone": self.backbone, "head": self.head}
        self.teacher = copy.deepcopy(nn.ModuleDict(student)).requires_grad_(False)
        self.center = nn.ParameterDict({"value": torch.zeros(5)}).requires_grad_(False)
        self.patch_center = copy.deepcopy(self.center)

    def loss(self, views, labels):
        masks = hidden_blocks(self.step, 2, (0.1, 0.5), 0.5, 1)
        large = torch.cat(views[:2])
        seen = tokens(self.backbone, large, masks, self.mask_token)
        student = self.head(seen)
        small = self.head(tokens(self.backbone, views[2])[:, 0])
        with torch.no_grad():
            vit, head = self.teacher["backbone"], self.teacher["head"]
            teacher = head(tokens(vit, large))
        warm = min(self.epoch / 2, 1)  # of three epochs
        tau, tau_p = 0.04 + 0.02 * warm, 0.04 + 0.03 * warm
        codes = ((teacher[:, 0] - self.center["value"]) / tau).softmax(-1)
        patch_codes = ((teacher[:, 1:] - self.patch_center["value"]) / tau_p).softmax(
            -1
        )
        self.seen = teacher[:, 0].mean(0), teacher[:, 1:].mean((0, 1))
        predicted = [*student[:, 0].chunk(2), small]
        of_class, of_patches = [], []
        for q, code in enumerate(codes.chunk(2)):
            for v, output in enumerate(predicted):
                if v != q:
                    log = (output / 0.1).log_softmax(-1)
                    of_class.append(-(code * log).sum(-1).mean())
        for q in range(2):
            rows = slice(q * IMAGES, (q + 1) * IMAGES)
            log = (student[rows, 1:] / 0.1).log_softmax(-1)
            errors, mask = -(patch_codes[rows] * log).sum(-1), masks[rows].flatten(1)
            share = (errors * mask).sum(-1) / mask.sum(-1).clamp(min=1)
            of_patches.append(share.mean())
        return sum(of_class) / len(of_class) + sum(of_patches) / len(of_patches)

    def before_update(self):
        if self.epoch < 1:
            self.head.last.weight.grad = None

    def after_step(self):
        m = 1 - 0.1 * (1 + math.cos(math.pi * self.step / STEPS)) / 2
        follow(self.teacher, self, m)
        for center, mean in zip(
            (self.center["value"], self.patch_center["value"]), self.seen, strict=True
        ):
            center.mul_(0.9).add_(0.1 * mean)
