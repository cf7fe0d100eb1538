"""Supervised classification by the cross-entropy, written out."""

from torch import nn

from tests.references.steps import Reference

SMOOTHING = 0.1


class Supervised(Reference):
    """Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, for the smoothing."""

    source = "cross-entropy with smoothed labels, section 7 of Szegedy et al. 2016"
    overrides = [f"model.label_smoothing={SMOOTHING}"]
    sizes = (8,)

    def build(self, backbone):
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.dim, 10)

    def batch(self, step):
        (x,), labels = super().batch(step)
        return x, labels

    def loss(self, x, labels):
        p = self.classifier(self.backbone(x)).log_softmax(1)
        hit = p[range(len(p)), labels]
        return -((1 - SMOOTHING) * hit + SMOOTHING * p.mean(1)).mean()
