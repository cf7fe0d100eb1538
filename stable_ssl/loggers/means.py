"""Logged values between two rows, without a host synchronisation a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.schema import ConfigError

Reduce = str | Callable[[Tensor], Any]  # mean, sum, last, or of a whole split


def below(split: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with names that have no slash put below a split's."""
    return {n if "/" in n else f"{split}/{n}": value for n, value in values.items()}


class Means:
    """Collect values by name; tensors stay on their device until `take`."""

    def __init__(self) -> None:
        self._empty()

    def _empty(self) -> None:
        self.values: dict[str, list[Tensor | float]] = {}
        self.weights: dict[str, list[float]] = {}  # of the names that have any
        self.reduces: dict[str, Reduce] = {}  # of the names that are no means

    def add(
        self,
        values: Mapping[str, Tensor | float],
        weight: float | None = None,
        reduce: Reduce = "mean",
    ) -> None:
        """Add scalars, numbers or tensors of one element.

        Args:
            values: by name.
            weight: in the mean; given for a name always or never.
            reduce: what a row holds: the mean, the sum, the last value of rank 0; or a
                function, given once the values (N, ...) of all ranks and additions.

        Raises:
            ConfigError: no such reduction.
        """
        if reduce not in ("mean", "sum", "last") and not callable(reduce):
            raise ConfigError(
                f"log(reduce={reduce!r}); use mean, sum, last, or a function of all"
                " values of a split"
            )
        for name, value in values.items():
            if isinstance(value, Tensor):  # a parameter or a view of one may change
                shared = value.is_leaf or value._base is not None
                value = value.detach().clone() if shared else value.detach()
            self.values.setdefault(name, []).append(value)
            if reduce != "mean":
                self.reduces[name] = reduce
            elif weight is not None:
                self.weights.setdefault(name, []).append(weight)

    def take(self) -> dict[str, float]:
        """Return what each is reduced to over all ranks, and start anew.

        Synchronises the host and the ranks.
        """
        functions = {n: f for n, f in self.reduces.items() if callable(f)}
        parts = {name: self.values.pop(name) for name in functions}
        sums: dict[str, tuple[float, float, str]] = {}  # total, weight, reduction
        for name, values in _floats(self.values).items():
            weights = self.weights.get(name, [1.0] * len(values))
            reduce = self.reduces.get(name, "mean")
            if name in self.weights:
                values = [v * w for v, w in zip(values, weights, strict=True)]
            total = values[-1] if reduce == "last" else sum(values)
            sums[name] = total, sum(weights), reduce
        self._empty()
        ranks = distributed.all_gather_object(sums)
        reduced = {}
        for name in dict.fromkeys(name for of_rank in ranks for name in of_rank):
            of_ranks = [of_rank[name] for of_rank in ranks if name in of_rank]
            totals, counts, (reduce, *_) = zip(*of_ranks, strict=True)
            if reduce == "last":
                reduced[name] = totals[0]
            else:
                reduced[name] = sum(totals) / (sum(counts) if reduce == "mean" else 1)
        for name, function in functions.items():
            rows = [torch.as_tensor(part) for part in parts[name]]
            rows = distributed.gather_batches([r if r.ndim else r[None] for r in rows])
            reduced[name] = float(function(rows))
        return reduced

    def state(self) -> dict[str, Tensor]:
        """Return the values without weights, float64; synchronises the host.

        A name is preceded by its reduction where that is not the mean.
        """
        state = {}
        for name, floats in _floats(self.values).items():
            key = f"{self.reduces[name]}:{name}" if name in self.reduces else name
            state[key] = torch.tensor(floats, dtype=torch.float64)
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self._empty()
        for key, values in state.items():
            reduce, _, name = key.partition(":")
            if reduce in ("sum", "last"):
                self.reduces[name], self.values[name] = reduce, values.tolist()
            else:
                self.values[key] = values.tolist()


def shared_out(
    states: Sequence[Mapping[str, Tensor]], processes: int
) -> Mapping[str, Tensor]:
    """Return the state with which each of so many processes goes on for others.

    What they log until the row counts beside it as if they had logged it all.

    Args:
        states: of `Means`, by rank of the processes that were.
        processes: that there are now.
    """
    shared = {}
    for key in dict.fromkeys(key for state in states for key in state):
        of_ranks = [state[key] for state in states if key in state]
        steps = max(map(len, of_ranks))
        if key.startswith("last:"):
            shared[key] = of_ranks[0]
        elif key.startswith("sum:"):
            total = torch.cat(of_ranks).sum()
            shared[key] = (total / processes).expand(1).clone()
        elif all(len(values) == steps for values in of_ranks):
            shared[key] = torch.stack(of_ranks).mean(0)
        else:  # logged by some ranks at some steps
            shared[key] = torch.cat(of_ranks).mean().expand(steps).clone()
    return shared


def _floats(values: Mapping[str, list[Tensor | float]]) -> dict[str, list[float]]:
    """Return scalars as Python's; those of a GPU come in a single copy."""
    tensors = [v for some in values.values() for v in some if isinstance(v, Tensor)]
    kinds = {(t.dtype, t.is_cpu, t.numel()) for t in tensors}  # or a type might round
    if len(kinds) == 1 and not tensors[0].is_cpu and tensors[0].numel() == 1:
        tensors = torch.stack([t.reshape(()) for t in tensors]).double().cpu()
    if isinstance(tensors, Tensor):
        tensors = tensors.tolist()
    tensors, floats = iter(tensors), {}
    for name, some in values.items():
        try:
            floats[name] = [
                float(next(tensors) if isinstance(v, Tensor) else v) for v in some
            ]
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{name} was logged with something that is no scalar: {error}; log"
                " numbers, or tensors of one element"
            ) from error
    return floats
