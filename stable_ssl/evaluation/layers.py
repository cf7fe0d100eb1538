"""Features of inner layers, read in the one pass in which all features are made.

    log:
      eval:
        block3: {_target_: stable_ssl.LayerKnn, layers: backbone.blocks.3}
        last4: {_target_: stable_ssl.LayerProbe, layers: [backbone.blocks.2, ...]}
        attentive: {_target_: stable_ssl.AttentiveProbe, layers: backbone.blocks.5}

Figures are named by their node, `val/block3_knn_acc1`, and say layers and pooling. A
layer is read where `encode` calls it: of a method with a teacher, the one it evaluates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from stable_ssl import distributed
from stable_ssl.batch import first_view
from stable_ssl.data.fields import UNLABELLED, as_classes
from stable_ssl.evaluation.config import KnnConfig, OfflineConfig, ProbeConfig
from stable_ssl.evaluation.evaluator import Encode, Evaluator, Split
from stable_ssl.evaluation.knn import Knn
from stable_ssl.evaluation.linear import Linear
from stable_ssl.evaluation.predictions import Accuracy
from stable_ssl.evaluation.probe import Probe
from stable_ssl.loggers.names import Metric
from stable_ssl.models.norm import SyncBatchNorm
from stable_ssl.optim import build_optimizer
from stable_ssl.schema import ConfigError, check_limits, nearest

POOLS = {"mean": "mean", "token": "class token", "none": "all tokens"}
JOINS = ("concat", "mean")


class Layers:
    """Modules whose outputs are features, each pooled, and then joined.

    Args:
        names: a path in the model, "backbone.blocks.3", or several.
        pool: of tokens (N, L, D): mean, of those of patches, the token of the class, or
            none, all of them; of maps (N, C, H, W): mean or none; (N, D) stays.
        join: of several layers: concat, side by side, or mean.
        pools: those that its reader takes.

    Raises:
        ConfigError: no such pool or join, or no layer.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        pool: str,
        join: str,
        pools: Sequence[str] = tuple(POOLS),
    ):
        self.names = [names] if isinstance(names, str) else list(names)
        self.pool, self.join = pool, join
        if not self.names:
            raise ConfigError("layers=[]: give the path of a module, or several")
        for key, value, known in (("pool", pool, pools), ("join", join, JOINS)):
            if value not in known:
                raise ConfigError(
                    f"{key}={value} is none of {', '.join(known)}"
                    f"{nearest(str(value), list(known))}"
                )

    def __str__(self) -> str:
        """Return which layers they are, and how they are pooled and joined."""
        several = f"{self.join} of " if len(self.names) > 1 else ""
        return f"{several}{', '.join(self.names)}, {POOLS[self.pool]}"

    def check(self, model: nn.Module) -> None:
        """Refuse a path at which a model has no module."""
        known = [name for name, _ in model.named_modules()]
        for name in self.names:
            if name not in known:
                hint = nearest(str(name), known)
                raise ConfigError(f"layers: the model has no module {name}{hint}")

    def of(self, outputs: Mapping[str, Tensor], model: nn.Module, rows: int) -> Tensor:
        """Return features (N, D), or tokens (N, L, D) where none is pooled.

        Args:
            outputs: by path, see `read`.
            model: that has the modules.
            rows: N, of the images.

        Raises:
            ConfigError: a module was not called, or returned what cannot be pooled.
        """
        pooled = []
        for name in self.names:
            output = outputs.get(name)
            if not isinstance(output, Tensor) or len(output) != rows:
                raise ConfigError(
                    f"layer {name} {_found(output)}, expected one tensor ({rows}, ...),"
                    " for as many images: encode must call it once"
                )
            pooled.append(self._pooled(output.detach().float(), name, model))
        if len(pooled) == 1:
            return pooled[0]
        if len({x.shape[:-1] for x in pooled}) > 1 or (
            self.join == "mean" and len({x.shape for x in pooled}) > 1
        ):
            raise ConfigError(f"layers {self} differ in shape; join others")
        return (
            torch.cat(pooled, -1)
            if self.join == "concat"
            else sum(pooled) / len(pooled)
        )

    def _pooled(self, x: Tensor, name: str, model: nn.Module) -> Tensor:
        """Return the features or tokens of one layer."""
        if x.ndim == 4:
            last = (
                _of_owner(model, name, "output_fmt", "NCHW") == "NHWC"
            )  # as timm says
            x = x.flatten(1, 2) if last else x.flatten(2).mT
            before = 0
        else:
            before = _of_owner(model, name, "num_prefix_tokens", 0)
        if x.ndim == 2 and self.pool != "none":
            return x
        if x.ndim != 3 or (self.pool == "token" and not before):
            raise ConfigError(
                f"layer {name} returns {_found(x)}, which has no {POOLS[self.pool]};"
                f" choose another pool ({', '.join(POOLS)})"
            )
        if self.pool == "none":
            return x
        return x[:, 0] if self.pool == "token" else x[:, before:].mean(1)


def _found(output: Any) -> str:
    if output is None:
        return "was not called by encode"
    if isinstance(output, Tensor):
        return f"returned a tensor {tuple(output.shape)}"
    return f"returned a {type(output).__name__}"


def _of_owner(model: nn.Module, name: str, attribute: str, default: Any) -> Any:
    """Return what the nearest module around a layer says of its outputs."""
    path = name.split(".")
    for end in range(len(path), -1, -1):
        owner = model.get_submodule(".".join(path[:end]))
        if hasattr(owner, attribute):
            return getattr(owner, attribute)
    return default


@contextmanager
def read(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a dict that gets, by path, what the modules return meanwhile."""
    outputs: dict[str, Any] = {}
    hooks = []
    try:
        for name in names:

            def keep(_module: Any, _inputs: Any, output: Any, name: str = name) -> None:
                outputs[name] = output

            module = model.get_submodule(name)
            hooks.append(module.register_forward_hook(keep))
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


# --- evaluators of layers -------------------------------------------------------------


class OfLayers(Evaluator):
    """What measures another evaluator's figures on layers, named by its node."""

    keys: type  # of the other evaluator: the dataclass of its keys
    pools: tuple[str, ...] = ("mean", "token")

    def __init__(
        self,
        layers: str | Sequence[str],
        pool: str = "mean",
        join: str = "concat",
        **config: Any,
    ):
        self.taps = Layers(layers, pool, join, self.pools)
        super().__init__(_built(self.keys, config))  # of the evaluator beside this

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """What a reader is told, layers and pooling included."""
        return {
            f"{self.node}_{name}": replace(
                metric,
                label=f"{metric.label}, {self.node}",
                title=f"{metric.title}, {self.node}",
                protocol=f"{metric.protocol}, features: {self.taps}",
            )
            for name, metric in self.of_features.items()
        }

    @metrics.setter
    def metrics(self, stated: Mapping[str, Metric]) -> None:
        self.of_features = stated

    def __call__(self, split: Split) -> Iterator[tuple[str, float]]:
        """Yield the figures under the node's name."""
        for name, value in super().__call__(split):
            yield f"{self.node}_{name}", value


class LayerKnn(OfLayers, Knn):
    """Nearest neighbours by the features of layers; other keys as `log.eval.knn`."""

    keys = KnnConfig


class LayerLinear(OfLayers, Linear):
    """A linear classifier fitted after training; other keys as `log.eval.offline`."""

    keys = OfflineConfig


class LayerProbe(OfLayers, Probe):
    """A linear probe beside the method; other keys as `log.eval.linear`.

    It costs a forward pass a step, in eval mode, which all such probes share.
    """

    kind, keys = "linear probe", ProbeConfig

    def __init__(self, *arguments: Any, **config: Any):
        super().__init__(*arguments, **config)
        title = f"{self.kind} (online)"
        self.metrics = {
            "acc1": Metric("accuracy", title, f"online {self.kind}, top 1", 12),
            "acc5": Metric(
                "accuracy, top 5", f"{title}, top 5", f"online {self.kind}, top 5", 12
            ),
        }
        self.accuracy = Accuracy()

    def see(self, batch: Any, loader: Any, encode: Encode) -> None:
        """Compare its predictions with the labels of a batch."""
        x, labels, *_ = batch
        self.accuracy.update(self.module(encode(first_view(x))), as_classes(labels))

    def __call__(self, split: Split) -> Iterator[tuple[str, float]]:
        """Yield top 1 and, of more than five classes, top 5."""
        found, self.accuracy = self.accuracy.compute(), Accuracy()
        for name, value in found.items():
            yield f"{self.node}_{name}", value


class AttentiveProbe(LayerProbe):
    """Attention with learnt queries pools the tokens before a linear classifier.

    As El-Nouby et al. 2024, https://arxiv.org/abs/2401.08541, section 3.3: standardised
    tokens, a query for each head, keys and values linear without a bias.

    Args:
        layers: as for `Layers`; their tokens are all seen.
        heads: of the attention; divides the width of the tokens.
        join: as for `Layers`.
        config: other keys, as `log.eval.linear`.
    """

    kind, pools = "attentive probe", ("none",)

    def __init__(
        self,
        layers: str | Sequence[str],
        heads: int = 12,
        join: str = "concat",
        **config: Any,
    ):
        super().__init__(layers, "none", join, **config)
        self.heads = heads

    def build(self, dim: int, num_classes: int, device: Any) -> None:
        """Build the pooling and the classifier for tokens (N, L, dim)."""
        if type(self.heads) is not int or self.heads < 1 or dim % self.heads:
            raise ConfigError(
                f"log.eval.{self.node}.heads={self.heads} must divide the width of the"
                f" tokens, {dim}"
            )
        self.module = AttentivePooling(dim, self.heads, num_classes).to(device)
        self.optimizer = build_optimizer(
            self.module.named_parameters(), self.config, at=f"log.eval.{self.node}"
        )

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Take one step on tokens (N, L, dim), as `Probe.fit`; return the loss, ()."""
        self.module.train()
        targets = labels.long().clamp(min=UNLABELLED)
        known = (targets >= 0).sum().float()
        share = distributed.all_mean(known).clamp(min=1).reciprocal()
        logits = self.module(features)
        options: dict[str, Any] = {"ignore_index": UNLABELLED, "reduction": "sum"}
        loss = cross_entropy(logits, targets, **options) * share
        loss.backward()
        for weight in self.module.parameters():
            weight.grad = distributed.all_mean(weight.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


class AttentivePooling(nn.Module):
    """Map tokens (N, L, dim) to logits (N, num_classes), see `AttentiveProbe`."""

    def __init__(self, dim: int, heads: int, num_classes: int):
        super().__init__()
        self.heads = heads
        self.norm = SyncBatchNorm(dim, affine=False)
        self.query = nn.Parameter(torch.randn(dim) * 0.02)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool the tokens, then classify, in float32."""
        with torch.autocast(tokens.device.type, enabled=False):
            return self._classified(tokens)

    def _classified(self, tokens: Tensor) -> Tensor:
        x = self.norm(tokens.float().flatten(0, 1)).view(tokens.shape)
        by_head = (self.heads, -1)
        key, value = (
            of(x).unflatten(2, by_head).transpose(1, 2) for of in (self.key, self.value)
        )
        query = self.query.unflatten(0, by_head)[:, None].expand(len(x), -1, -1, -1)
        pooled = scaled_dot_product_attention(query, key, value)
        return self.classifier(pooled.flatten(1))


def _built(cls: type, config: Mapping[str, Any]) -> Any:
    """Build the dataclass of an evaluator's keys.

    Raises:
        ConfigError: it has no such key, or a value is out of its limits.
    """
    from omegaconf import OmegaConf

    known = [field.name for field in fields(cls)]
    for name in config:
        if name not in known:
            raise ConfigError(f"{name} is not one of its keys{nearest(name, known)}")
    group = OmegaConf.merge(OmegaConf.structured(cls), dict(config))
    check_limits(group)
    return OmegaConf.to_object(group)
