"""Means of logged values between two rows, without a host synchronisation a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stable_ssl import distributed


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
        for name, values in self.values.items():
            floats, total = _floats(values), float(len(values))
            if name in self.weights:
                weights = _floats(self.weights[name])
                floats, total = floats * weights, weights.sum().item()
            sums[name] = floats.sum().item(), total
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
        return {name: _floats(values) for name, values in self.values.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.values = {name: values.tolist() for name, values in state.items()}


def _floats(values: list[Tensor | float]) -> Tensor:
    """Return scalars as one float64 tensor on the CPU."""
    kinds = {(v.dtype, v.device) if isinstance(v, Tensor) else None for v in values}
    if len(kinds) == 1 and None not in kinds:
        return torch.stack(values).flatten().double().cpu()
    return torch.tensor([float(value) for value in values], dtype=torch.float64)
