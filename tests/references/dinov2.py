"""DINOv2 as the authors' code has it."""

import copy
import math

import torch
from torch import nn
from torch.nn.functional import log_softmax

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


def sinkhorn_knopp(logits, temperature):
    """Return assignments (rows, K) of rows that share the prototypes equally."""
    q = (logits / temperature).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


class DINOv2(TokenReference):
    """Oquab et al. 2023, https://arxiv.org/abs/2304.07193, with separate heads."""

    source = (
        "ssl_meta_arch.py of facebookresearch/dinov2, centering: sinkhorn_knopp,"
        " separate_head: true; lightly's `KoLeoLoss`"
    )
    sizes = (8, 8, 4)
    overrides = [
        *VIT,
        *SMALL_VIEW,
        "model.hidden=32",
        "model.bottleneck=6",
        "model.prototypes=5",
        "model.mask_block=2",
        "model.warmup_temperature=0.04",
        "model.teacher_temperature=0.06",
        "model.warmup_epochs=3",
        "model.freeze_epochs=1",
        "model.momentum=0.9",
    ]

    def build(self, backbone):
        self.backbone, self.head, self.patch_head = backbone, Head(), Head()
        self.mask_token = nn.Parameter(torch.zeros(8))
        student = nn.ModuleList([self.backbone, self.head, self.patch_head])
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    def loss(self, views, labels):
        from lightly.loss import KoLeoLoss

        masks = hidden_blocks(self.step, 2, (0.1, 0.5), 0.5, 2)
        hidden = masks.flatten(1)
        large = torch.cat(views[:2])
        tau = 0.04 + 0.02 * min(self.epoch / 2, 1)  # climbs in three epochs
        with torch.no_grad():
            seen = tokens(self.teacher[0], large)
            codes = sinkhorn_knopp(self.teacher[1](seen[:, 0]), tau)
            patch_codes = sinkhorn_knopp(self.teacher[2](seen[:, 1:][hidden]), tau)
        seen = tokens(self.backbone, large, masks, self.mask_token)
        features = [*seen[:, 0].chunk(2), tokens(self.backbone, views[2])[:, 0]]
        loss, codes = 0.0, codes.chunk(2)
        for q in range(2):
            for v in range(3):
                if v != q:
                    log = log_softmax(self.head(features[v]) / 0.1, -1)
                    loss -= (codes[q] * log).sum(-1).mean() / 4  # of four terms
        log = log_softmax(self.patch_head(seen[:, 1:][hidden]) / 0.1, -1)
        weight = 1 / hidden.sum(1).clamp(min=1).double()
        weight = weight[:, None].expand_as(hidden)[hidden]
        # the code's mean over 2N views, times two for them, times a half
        loss -= ((patch_codes * log).sum(-1) * weight).sum() / (2 * IMAGES)
        return loss + 0.1 * sum(KoLeoLoss()(feature) for feature in features[:2])

    def before_update(self):
        if self.epoch < 1:
            self.head.last.weight.grad = self.patch_head.last.weight.grad = None

    def after_step(self):
        m = 1 - 0.1 * (1 + math.cos(math.pi * self.step / STEPS)) / 2
        student = nn.ModuleList([self.backbone, self.head, self.patch_head])
        follow(self.teacher, student, m)
