"""The online linear probe: a classifier trained beside the method, never through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stable_ssl import distributed
from stable_ssl.evaluation.evaluator import OnlineEvaluator
from stable_ssl.models.norm import SyncBatchNorm
from stable_ssl.optim import build_optimizer
from stable_ssl.schema import key

IGNORED = -100  # a target that torch's cross-entropy leaves out


@dataclass
class ProbeConfig:
    """The online linear probe: trained on detached features beside the method."""

    optimizer: Any = key("adamw", required=True)  # its own, never the method's
    lr: float = key(1e-3, above=0)
    weight_decay: float = key(0.0, low=0)


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

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Take one optimizer step on features (N, dim); return the loss, ().

        Samples without a label, a negative one, count for the statistics alone.
        Synchronises ranks: gradient and statistics are those of the whole batch; one
        sample alone has none, and is standardised as in evaluation.
        """
        self.module.norm.train(len(features) * distributed.world_size() > 1)
        logits, known = self.module(features), labels >= 0
        count = distributed.all_mean(known.sum().to(logits.dtype)).clamp(min=1)
        targets = labels.where(known, IGNORED)
        loss = cross_entropy(logits, targets, reduction="sum") / count
        loss.backward()
        for parameter in self.module.parameters():
            parameter.grad = distributed.all_mean(parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

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
        return self.classifier(self.norm(features.float()))
