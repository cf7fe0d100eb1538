"""The online linear probe: a classifier trained beside the method, never through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stable_ssl import distributed, seeding
from stable_ssl.models.norm import SyncBatchNorm
from stable_ssl.optim import build_optimizer


class LinearProbe(nn.Module):
    """A linear classifier on detached features, with an optimizer of its own.

    Features are standardised by a batch norm without parameters, so that one learning
    rate suits features of any scale. Nothing of it enters the method's gradient,
    optimizer, clip norm or random numbers.

    Args:
        dim: of the features.
        num_classes: of the labels.
        config: group `log.eval.linear`: optimizer, lr, weight_decay.
        seed: of the initial weights.
    """

    def __init__(self, dim: int, num_classes: int, config: Any, seed: int = 0):
        super().__init__()
        with seeding.preserve_rng():
            torch.manual_seed(seed)
            self.norm = SyncBatchNorm(dim, affine=False)
            self.classifier = nn.Linear(dim, num_classes)
        self.optimizer = build_optimizer(
            self.named_parameters(), config, at="log.eval.linear"
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, dim) to logits (N, num_classes) in float32."""
        return self.classifier(self.norm(features.float()))

    def fit_batch(self, features: Tensor, labels: Tensor) -> Tensor:
        """Take one optimizer step on detached features; return the loss, a scalar.

        Synchronises ranks: gradient and statistics are those of the whole batch; one
        sample alone has none, and is standardised as in evaluation.
        """
        self.norm.train(len(features) * distributed.world_size() > 1)
        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
            loss = cross_entropy(self(features.detach()), labels)
            loss.backward()
        for parameter in self.parameters():
            parameter.grad = distributed.all_mean(parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """Return all that a resumed probe needs."""
        return {"module": self.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
