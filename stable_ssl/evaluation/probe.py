"""The online linear probe: a classifier trained beside the method, never through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.optim import SGD, Adam, AdamW, Optimizer

from stable_ssl import distributed
from stable_ssl.data.fields import UNLABELLED
from stable_ssl.evaluation.config import ProbeConfig
from stable_ssl.evaluation.evaluator import OnlineEvaluator
from stable_ssl.models.norm import SyncBatchNorm
from stable_ssl.optim import build_optimizer

SUM = 2  # how torch's kernels of the loss call this reduction


class Probe(OnlineEvaluator):
    """Train a linear classifier with an optimizer of its own.

    Nothing of it enters the method's gradient, optimizer, clip norm or random numbers.
    `predict` returns its logits, whose accuracies are acc1 and acc5 (`Predictions`).
    """

    key = "linear"
    needs_labels = True
    needs_features = whole_batch = False
    each_rank = True  # and yields nothing

    def __init__(self, config: ProbeConfig):
        self.config = config

    def build(self, dim: int, num_classes: int, device: Any) -> None:
        """Build the classifier for features (N, dim)."""
        self.module = LinearProbe(dim, num_classes).to(device)
        self.optimizer = build_optimizer(
            self.module.named_parameters(), self.config, at="log.eval.linear"
        )
        _fuse(self.optimizer)

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Take one optimizer step on features (N, dim); return the loss, ().

        Samples without a label, a negative one, count for the statistics alone.
        Synchronises ranks: gradient and statistics are those of the whole batch; one
        sample alone has none, and is standardised as in evaluation.

        The gradient is that of `cross_entropy`, made without autograd: for so small a
        model its graph costs as much as the step.
        """
        norm, classifier = self.module.norm, self.module.classifier
        weight, bias, aten = classifier.weight, classifier.bias, torch.ops.aten
        several = len(features) * distributed.world_size() > 1
        if norm.training != several:
            norm.train(several)
        x = norm(features.float())
        log_p = linear(x, weight, bias).log_softmax(1)
        targets = labels.long().clamp(min=UNLABELLED)
        loss, known = aten.nll_loss_forward(log_p, targets, None, SUM, UNLABELLED)
        count = distributed.all_mean(known).clamp(min=1)
        share = count.reciprocal()
        slope = aten.nll_loss_backward(
            share, log_p, targets, None, SUM, UNLABELLED, known
        )
        slope.addcmul_(log_p.exp_(), slope.sum(1, keepdim=True), value=-1)
        weight.grad = distributed.all_mean(slope.T @ x)
        bias.grad = distributed.all_mean(slope.sum(0))
        self.optimizer.step()
        weight.grad = bias.grad = None  # zero_grad costs 12 us
        return loss * share

    def state_dict(self) -> dict[str, Any]:
        """Return weights, statistics and the optimizer's state."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])


class LinearProbe(nn.Module):
    """A linear classifier of features standardised by a batch norm without parameters.

    So one learning rate suits features of any scale.

    Args:
        dim: of the features.
        num_classes: of the labels.
    """

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.norm = SyncBatchNorm(dim, affine=False)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, dim) to logits (N, num_classes) in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return self.classifier(self.norm(features.float()))


def _fuse(optimizer: Optimizer) -> None:
    """Let an optimizer step by its fused kernel, unless its config says how."""
    if isinstance(optimizer, Adam | AdamW | SGD):
        for group in optimizer.param_groups:
            stated = group["foreach"] or group["differentiable"]
            known = {p.device.type for p in group["params"]} <= {"cpu", "cuda"}
            if known and group["fused"] is None and not stated:
                group["fused"] = True
