"""Heads: small networks on top of a backbone's features."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_ssl.schema import ConfigError
from stable_ssl.vectors import unit


def mlp(
    *dims: int,
    norm: bool = True,
    final_norm: bool = False,
    bias: bool = True,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Make a perceptron, (N, dims[0]) -> (N, dims[-1]); two dims are a linear layer.

    Args:
        dims: widths from input to output, as in `mlp(512, 2048, 128)`.
        norm: batch norm after each hidden layer.
        final_norm: batch norm after the last layer.
        bias: of the layers that no batch norm follows; elsewhere it would cancel.
        activation: makes the activation after each hidden layer.

    Raises:
        ConfigError: fewer than two dims, or one that is not a positive integer.
    """
    if len(dims) < 2 or not all(isinstance(d, int) and d > 0 for d in dims):
        raise ConfigError(
            f"mlp found widths {dims}, expected two or more positive integers, "
            "input first: mlp(512, 2048, 128)"
        )
    layers = []
    for i, (inputs, outputs) in enumerate(zip(dims, dims[1:], strict=False), 2):
        last = i == len(dims)
        normed = final_norm if last else norm
        layers.append(nn.Linear(inputs, outputs, bias=bias and not normed))
        if normed:
            layers.append(nn.BatchNorm1d(outputs))
        if not last:
            layers.append(activation())
    return nn.Sequential(*layers)


class Prototypes(nn.Linear):
    """Similarities to `count` vectors: (N, dim) -> (N, count).

    Caron et al. 2020 (SwAV), https://arxiv.org/abs/2006.09882. They are a linear
    layer's rows, which `normalize` brings back to norm 1 without the gradient knowing:
    an optimizer steps off the sphere. Compared in float32 at least.

    Args:
        dim: of the vectors.
        count: of the prototypes.
    """

    def __init__(self, dim: int, count: int):
        super().__init__(dim, count, bias=False)
        self.normalize()

    def forward(self, z: Tensor) -> Tensor:
        """Compare z (N, dim), of norm 1, with each prototype."""
        return _similarities(z, self.weight)

    @torch.no_grad()
    def normalize(self) -> None:
        """Scale `weight` itself to rows of norm 1; call it before a step's loss."""
        self.weight.copy_(unit(self.weight))


class Directions(nn.Linear):
    """Cosines to `count` directions of vectors of norm 1: (N, dim) -> (N, count).

    Weight normalisation, Salimans and Kingma 2016, https://arxiv.org/abs/1602.07868,
    eq. 2, with g = 1: a row's length changes no output, but the longer it is the less
    an optimizer turns it. Computed in float32 at least.

    Args:
        dim: of the vectors.
        count: of the directions.
    """

    def __init__(self, dim: int, count: int):
        super().__init__(dim, count, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Compare z (N, dim), of norm 1, with each direction."""
        return _similarities(z, unit(self.weight))


def _similarities(z: Tensor, rows: Tensor) -> Tensor:
    """Return the products of z (N, dim) with rows (K, dim), whatever the autocast."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    with torch.autocast(z.device.type, enabled=False):
        return F.linear(z.to(rows.dtype), rows)


class DINOHead(nn.Module):
    """A perceptron to a unit bottleneck, and its cosines to `out` prototypes.

    Caron et al. 2021 (DINO), https://arxiv.org/abs/2104.14294, appendix C. The last
    layer is `.last`, weight-normalised with g = 1 and drawn as torch's linear layers
    are; a method freezes the student's by dropping `last.weight.grad` before the
    optimizer step.

    Args:
        dim: of the features.
        hidden: width of the hidden layers.
        bottleneck: width before the last layer.
        out: number of prototypes, K in the paper.
        layers: linear ones up to the bottleneck.
        norm: batch norm after each hidden layer.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 2048,
        bottleneck: int = 256,
        out: int = 65536,
        layers: int = 3,
        norm: bool = False,
    ):
        super().__init__()
        widths = [hidden] * (layers - 1)
        self.mlp = mlp(dim, *widths, bottleneck, norm=norm, activation=nn.GELU)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.last = Directions(bottleneck, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, dim) to logits (N, out) in [-1, 1]."""
        return self.last(unit(self.mlp(x)))
