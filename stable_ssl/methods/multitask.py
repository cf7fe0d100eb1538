"""Several tasks at once: heads on one backbone, each with its own data and loss.

Rotation prediction, Gidaris et al. 2018, https://arxiv.org/abs/1803.07728, is a recipe
of it, alone or beside classification. The tasks' labels prevent collapse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor, full, nn

from stable_ssl.batch import first_view
from stable_ssl.config import Model, Schedule
from stable_ssl.data.nodes import labelled_name, named_nodes
from stable_ssl.instantiate import build_object
from stable_ssl.models import backbone
from stable_ssl.optim import build_schedule
from stable_ssl.schema import ConfigError, nearest
from stable_ssl.torch_errors import errors_at
from stable_ssl.trainer import BaseTrainer


@dataclass
class MultiTaskConfig(Model):
    """Keys under `model`.

    A head is {_target_, data, loss, scale, schedule}: `data` names a train loader (the
    one of the head's name), `scale` is the weight of its loss (1), and `schedule`, with
    the keys of `optim.scheduler`, varies it. Other keys are arguments of `_target_`
    (torch.nn.Linear), whose first is the number of features.
    """

    loss: Any = None  # of heads that name none, {_target_: ...}; null: cross-entropy
    heads: dict[str, Any] = field(default_factory=dict)  # by name, as said above
    predict: str | None = None  # head whose logits, one a class, are scored


class MultiTask(BaseTrainer):
    """Minimise a weighted sum of losses, a head each."""

    model_config = MultiTaskConfig

    def initialize_modules(self) -> None:
        """Build the backbone, and head, loss and weight of each task.

        Raises:
            ConfigError: no heads, or one that cannot be built.
        """
        model = self.config.model
        if not model.heads or model.predict not in (None, *model.heads):
            known = f"; model.heads has {', '.join(model.heads) or 'none, give some'}"
            raise ConfigError(f"model.predict={model.predict}{known}")
        self.predicts = model.predict is not None
        self.backbone = backbone(model.backbone)
        self.heads, self.losses = nn.ModuleDict(), nn.ModuleDict()
        self.sources: dict[str, str | None] = {}  # train loader by head
        self.scales: dict[str, float | Tensor] = {}  # weight of its loss in this step
        self.schedules: dict[str, Any] = {}  # functions: step -> weight
        for name, node in model.heads.items():
            with errors_at(f"model.heads.{name}"):
                self._build_head(name, OmegaConf.to_container(node, resolve=True))

    def _build_head(self, name: str, node: dict[str, Any]) -> None:
        loaders = [n for part, n, _ in named_nodes(self.config.data) if part == "train"]
        source = node.pop("data", None if loaders == [None] else name)
        if source not in loaders:
            close = nearest(str(source), [str(loader) for loader in loaders])
            raise ValueError(f"data={source} is none of the loaders {loaders}{close}")
        self.sources[name] = source
        self.scales[name] = scale = float(node.pop("scale", 1.0))
        loss = self.config.model.loss or {"_target_": "torch.nn.CrossEntropyLoss"}
        self.losses[name] = build_object(node.pop("loss", loss), "loss")
        if schedule := node.pop("schedule", None):
            lengths = self.steps_per_epoch, self.total_steps, "schedule"
            if factor := build_schedule(Schedule(**schedule), scale, *lengths):
                self.schedules[name] = lambda step: scale * factor(step)
        arguments = {"_target_": "torch.nn.Linear", "_args_": [self.backbone.dim]}
        self.heads[name] = build_object({**arguments, **node}, "head")

    def encode(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to the logits of `model.predict`, or to features."""
        head, features = self.config.model.predict, self.encoded(x)
        return features if head is None else self.heads[head](features)

    def train_step(self, batch: Any) -> None:
        """Set this step's weights, as tensors: torch.compile would freeze numbers."""
        for name, weight in self.schedules.items():
            self.scales[name] = full((), weight(self.step), device=self.device)
        super().train_step(batch)

    def compute_loss(self) -> dict[str, Tensor]:
        """Return the weighted sum, each head's loss unweighted, and features."""
        batches = self.data if isinstance(self.data, dict) else {None: self.data}
        used = dict.fromkeys(self.sources.values())  # each once
        features = {n: self.encode(first_view(batches[n][0])) for n in used}
        losses = {}
        for name, source in self.sources.items():
            with errors_at(f"model.heads.{name}"):
                output = self.heads[name](features[source])
                losses[name] = self.losses[name](output, batches[source][1])
        total = sum(self.scales[name] * loss for name, loss in losses.items())
        probed = features.get(labelled_name(self.config.data, list(batches)))
        return {**losses, "loss": total, "features": probed}
