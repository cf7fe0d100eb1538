"""FixMatch by the authors' graph, all images in one forward pass."""

import copy

import torch
from torch import nn

from tests.references.steps import Reference

DECAY = 0.9


class FixMatch(Reference):
    """Sohn et al. 2020, https://arxiv.org/abs/2001.07685."""

    source = "eq. 3 and 4; the authors' `FixMatch.model` (TensorFlow)"
    overrides = [f"model.momentum={DECAY}", "model.threshold=0.14", "model.weight=0.7"]

    def build(self, backbone):
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.dim, 10)
        self.average = copy.deepcopy(self.student).requires_grad_(False)

    @property
    def student(self):
        return nn.Sequential(self.backbone, self.classifier)

    def batch(self, step):
        views, labels = super().batch(step)
        other, _ = super().batch(step + 1000)
        return {"labelled": (other[0][:6], labels[:6]), "unlabelled": (views, labels)}

    def loss(self, labelled, unlabelled):
        (x, y), ((weak, strong), _) = labelled, unlabelled
        logits = self.classifier(self.backbone(torch.cat([x, weak, strong])))
        of_x, of_weak, of_strong = logits[:6], logits[6:22], logits[22:]
        supervised = -of_x.log_softmax(1)[range(6), y].mean()
        pseudo = of_weak.detach().softmax(1)
        mask = (pseudo.amax(1) >= 0.14).double()
        assert 0 < mask.mean() <= 1
        self.partial = getattr(self, "partial", False) or bool(mask.mean() < 1)
        each = -of_strong.log_softmax(1)[range(16), pseudo.argmax(1)]
        return supervised + 0.7 * (each * mask).mean()

    def after_step(self):
        pairs = zip(self.average.parameters(), self.student.parameters(), strict=True)
        for shadow, value in pairs:
            shadow.sub_((1 - DECAY) * (shadow - value))
        # statistics are no trained variables, which is what is averaged
        pairs = zip(self.average.buffers(), self.student.buffers(), strict=True)
        for own, value in pairs:
            own.copy_(value)
        assert self.step < 19 or self.partial  # some were not confident
