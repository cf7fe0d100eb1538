"""Heads: small networks on top of a backbone's features."""

from collections.abc import Callable

from torch import nn

from stable_ssl.config import ConfigError


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
    for i, (wide, narrow) in enumerate(zip(dims, dims[1:], strict=False), start=2):
        last = i == len(dims)
        normed = final_norm if last else norm
        layers.append(nn.Linear(wide, narrow, bias=bias and not normed))
        if normed:
            layers.append(nn.BatchNorm1d(narrow))
        if not last:
            layers.append(activation())
    return nn.Sequential(*layers)
