"""Several tasks at once: heads on one backbone, each with its own data and loss.

Rotation prediction (Gidaris et al. 2018, https://arxiv.org/abs/1803.07728), alone or
beside classification, is such a recipe: four rotations of an image are told apart. The
labels of the tasks prevent collapse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from stable_ssl.config import ConfigError, Model, Schedule, errors_in_words, nearest
from stable_ssl.data.build import named_nodes
from stable_ssl.evaluation.features import first_view
from stable_ssl.models import backbone
from stable_ssl.optim import build_schedule
from stable_ssl.trainer import BaseTrainer

LINEAR = "torch.nn.Linear"


@dataclass
class MultiTaskConfig(Model):
    """Keys under `model`.

    A head is {_target_, data, loss, scale, schedule}. Of these, `data` is the name of a
    train loader (the head's own); `scale` the weight of its loss (1), which `schedule`,
    in the words of `optim.scheduler`, varies. Other keys are arguments of `_target_`
    (torch.nn.Linear), whose first is the number of features.
    """

    loss: dict[str, Any] = field(  # of heads that name none
        default_factory=lambda: {"_target_": "torch.nn.CrossEntropyLoss"}
    )
    heads: dict[str, Any] = field(default_factory=dict)
    predict: str | None = None  # head of all classes, whose logits are scored


class MultiTask(BaseTrainer):
    """Minimise a weighted sum of losses, a head each."""

    model_config = MultiTaskConfig

    def initialize_modules(self) -> None:
        """Build the backbone, and head, loss and weight of each task.

        Raises:
            ConfigError: no heads; one that reads no train loader or cannot be built.
        """
        model = self.config.model
        if model.predict not in (None, *model.heads) or not model.heads:
            raise ConfigError(
                f"model.predict={model.predict}, and model.heads has"
                f" {', '.join(model.heads) or 'none'}; set heads: {{name: {{data:"
                " <a train loader>}}, and predict to the head of the classes or null"
            )
        self.predicts = model.predict is not None
        self.backbone = backbone(model.backbone)
        self.heads, self.losses = nn.ModuleDict(), nn.ModuleDict()
        self.sources: dict[str, str | None] = {}  # train loader by head
        self.scales: dict[str, float | Tensor] = {}  # weight of its loss in this step
        self.schedules: dict[str, Callable[[int], float]] = {}  # step -> weight
        nodes = named_nodes(self.config.data)
        loaders = [name for split, name, _ in nodes if split == "train"]
        for name, node in model.heads.items():
            self._build_head(name, dict(node or {}), loaders)

    def _build_head(
        self, name: str, node: dict[str, Any], loaders: list[str | None]
    ) -> None:
        """Build one head from its node; `loaders` are there to be read."""
        source = node.pop("data", None if loaders == [None] else name)
        if source not in loaders:
            raise ConfigError(
                f"model.heads.{name}.data={source} is no train loader"
                f"{nearest(str(source), [str(loader) for loader in loaders])}"
                f" (there are: {', '.join(str(loader) for loader in loaders)})"
            )
        self.sources[name] = source
        self.scales[name] = scale = node.pop("scale", 1.0)
        self.losses[name] = _built(name, node.pop("loss", self.config.model.loss))
        if schedule := node.pop("schedule", None):
            with errors_in_words():
                words = OmegaConf.merge(OmegaConf.structured(Schedule), schedule)
            lengths = self.steps_per_epoch, self.total_steps
            factor = build_schedule(words, scale, *lengths)
            self.schedules[name] = lambda step: scale * factor(step)
        node = {"_target_": LINEAR, **node}
        if name == self.config.model.predict and node["_target_"] == LINEAR:
            node = {"out_features": self.num_classes, **node}
        self.heads[name] = _built(name, node, self.backbone.dim)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to the logits of `model.predict`, or to features."""
        head = self.config.model.predict
        return self.encode(x) if head is None else self.heads[head](self.encode(x))

    def train_step(self, batch: Any) -> None:
        """Set the weights of this step, as tensors: numbers would be compiled in."""
        for name, weight in self.schedules.items():
            self.scales[name] = torch.full((), weight(self.step), device=self.device)
        super().train_step(batch)

    def compute_loss(self) -> dict[str, Tensor]:
        """Return the weighted sum, and each head's loss unweighted."""
        batches = self.data if isinstance(self.data, dict) else {None: self.data}
        features = {
            source: self.encode(first_view(batches[source][0]))
            for source in dict.fromkeys(self.sources.values())
        }
        losses = {
            name: self.losses[name](head(features[source]), batches[source][1])
            for (name, head), source in zip(
                self.heads.items(), self.sources.values(), strict=True
            )
        }
        total = sum(self.scales[name] * loss for name, loss in losses.items())
        return {**losses, "loss": total}


def _built(name: str, node: Any, *arguments: int) -> nn.Module:
    """Build what {_target_: dotted path, arguments} of a head names."""
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    try:
        return instantiate(node, *arguments)
    except HydraException as error:
        words = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"model.heads.{name}: {words}") from error
