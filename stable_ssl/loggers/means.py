"""Means of logged values between two rows, without a host synchronisation a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.config import ConfigError


class Means:
    """Collect scalars by name; tensors stay on their device until `take`."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor | float]] = {}
        self.weights: dict[str, list[float]] = {}  # of the names that have any

    def add(
        self, values: Mapping[str, Tensor | float], weight: float | None = None
    ) -> None:
        """Add scalars, numbers or tensors of one element.

        Args:
            values: by name.
            weight: in the mean; given for a name always or never.
        """
        for name, value in values.items():
            if isinstance(value, Tensor):  # a parameter or a view of one may change
                shared = value.is_leaf or value._base is not None
                value = value.detach().clone() if shared else value.detach()
            try:
                self.values[name].append(value)
            except KeyError:
                self.values[name] = [value]
            if weight is not None:
                self.weights.setdefault(name, []).append(weight)

    def take(self) -> dict[str, float]:
        """Return the mean of each over all ranks and start anew.

        Synchronises the host and the ranks.
        """
        sums: dict[str, tuple[float, float]] = {}
        for name, floats in _floats(self.values).items():
            weights = self.weights.get(name)
            if weights is not None:
                floats = [f * w for f, w in zip(floats, weights, strict=True)]
            total = float(len(floats)) if weights is None else sum(weights)
            sums[name] = sum(floats), total
        self.values, self.weights = {}, {}
        everyone = distributed.all_gather_object(sums)
        names = dict.fromkeys(name for one in everyone for name in one)
        means = {}
        for name in names:
            parts = [one[name] for one in everyone if name in one]
            total, weight = (sum(part) for part in zip(*parts, strict=True))
            means[name] = total / weight
        return means

    def state(self) -> dict[str, Tensor]:
        """Return the values without weights, float64; synchronises the host."""
        floats = _floats(self.values).items()
        return {name: torch.tensor(f, dtype=torch.float64) for name, f in floats}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.values = {name: values.tolist() for name, values in state.items()}


def _floats(values: Mapping[str, list[Tensor | float]]) -> dict[str, list[float]]:
    """Return scalars as Python's; those of a GPU come in a single copy."""
    tensors = [v for some in values.values() for v in some if isinstance(v, Tensor)]
    kinds = {(t.dtype, t.is_cpu, t.numel()) for t in tensors}  # or a type might round
    if len(kinds) == 1 and not tensors[0].is_cpu and tensors[0].numel() == 1:
        tensors = torch.stack([t.reshape(()) for t in tensors]).double().cpu()
    if isinstance(tensors, Tensor):
        tensors = tensors.tolist()
    read, found = iter(tensors), {}
    for name, some in values.items():
        try:
            found[name] = [
                float(next(read) if isinstance(v, Tensor) else v) for v in some
            ]
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{name} was logged with something that is no scalar: {error}; log"
                " numbers, or tensors of one element"
            ) from error
    return found
