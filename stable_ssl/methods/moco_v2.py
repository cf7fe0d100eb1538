"""MoCo v2+: Momentum Contrast for Unsupervised Visual Representation Learning.

He et al. 2020, https://arxiv.org/abs/1911.05722; Chen et al. 2020 (v2),
https://arxiv.org/abs/2003.04297

The projection of one view is to be like the key of the other view, and unlike the keys
of earlier images in a queue; keys are made by a teacher, the moving average of the
student. These negatives prevent collapse.
Differs from the papers: the loss is the mean of both orders, with a queue for the keys
of each view (the "+": Chen and He 2021, https://arxiv.org/abs/2011.10566);
batch norms see the batch of all processes, instead of shuffled parts of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stable_ssl.config import Model, key
from stable_ssl.losses import moco
from stable_ssl.models import EMA, Queue, backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class MoCoV2Config(Model):
    """Keys under `model`."""

    temperature: float = key(0.2, above=0)  # tau of eq. 1
    projector: list[int] = key([2048, 128], low=1, shortest=1)  # widths, without norms
    queue: int = key(65536, low=1)  # keys of each view, K
    momentum: float = key(0.999, low=0, high=1)  # m of eq. 2, at first
    final_momentum: float = key(0.999, low=0, high=1)  # m at the end, not below
    momentum_schedule: str = key("cosine", choices=("cosine", "polynomial"))  # between


class MoCoV2(BaseTrainer):
    """Contrast projections with queues of keys; `data.train` yields two views."""

    model_config = MoCoV2Config
    views = 2

    def initialize_modules(self) -> None:
        """Build the student, backbone and projector, its teacher and the queues."""
        model, seed = self.config.model, self.config.hardware.seed
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector, norm=False)
        momenta = model.momentum, model.final_momentum
        self.teacher = EMA(self.student, *momenta, model.momentum_schedule)
        width = model.projector[-1]
        self.queues = nn.ModuleList(
            Queue(model.queue, width, seed + view) for view in range(2)
        )

    @property
    def student(self) -> nn.Sequential:
        """What the teacher is a moving average of."""
        return nn.Sequential(self.backbone, self.projector)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> dict[str, Any]:
        """Return the mean of both orders of eq. 1, and features; enqueue the keys.

        Every micro-batch of a training step is enqueued, once; a batch that is only
        evaluated is not.
        """
        views, *_ = self.data
        features = [self(view) for view in views]
        q_a, q_b = map(self.projector, features)
        keys = [self.teacher(view) for view in views]
        (k_a, k_b), (queue_a, queue_b) = keys, [queue.rows for queue in self.queues]
        tau = self.config.model.temperature
        loss = (moco(q_a, k_b, queue_b, tau) + moco(q_b, k_a, queue_a, tau)) / 2
        if self.training:
            for queue, of_view in zip(self.queues, keys, strict=True):
                queue.enqueue(of_view)
        return {"loss": loss, "features": features}

    def after_train_step(self) -> None:
        """Move the teacher towards the student."""
        self.teacher.update(self.student, self.step, self.total_steps)
