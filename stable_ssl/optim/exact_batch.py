"""The gradient of one loss of a whole step, whose images are embedded in micro-batches.

Gao et al. 2021 (GradCache), https://arxiv.org/abs/2101.06983, section 3: a loss that
compares the images of a batch needs their embeddings at once, but not the activations
behind them. These are made again, a micro-batch at a time, once the gradient of the
loss with regard to the embeddings is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl import seeding
from stable_ssl.batch import count, joined, mapped, tensors
from stable_ssl.schema import ConfigError

TOLERANCE = 0.05  # of an embedding's norm: half precision rounds less, dropout is more


class ExactBatch:
    """The micro-batches of a step, their embeddings, and the pass that uses gradients.

    Args:
        module: whose buffers the second pass leaves as the first one did.
        embed: maps the number of a micro-batch and the micro-batch to embeddings:
            tensors with a row an image, in lists, tuples and dicts.
    """

    def __init__(self, module: nn.Module, embed: Callable[[int, Any], Any]):
        self.module, self.embed = module, embed
        self.compared = False  # the two passes, in the first step
        self.begin()

    def begin(self) -> None:
        """Begin a step."""
        self.added = 0
        self._forget()

    def _forget(self) -> None:
        self.batches: list[Any] = []
        self.rng_states: list[dict[str, Any]] = []  # before each was embedded
        self.embedded: list[Any] = []  # embeddings, leaves of the loss's graph

    def add(self, batch: Any) -> None:
        """Embed a micro-batch without a graph.

        Raises:
            ConfigError: an embedding that has not a row an image.
        """
        self.rng_states.append(seeding.get_rng_state())
        with torch.no_grad():
            embedded = self.embed(len(self.batches), batch)
        rows = count(batch)
        for found in tensors(embedded):
            if found.ndim == 0 or len(found) != rows:
                raise ConfigError(
                    f"embed returned a tensor of shape {tuple(found.shape)} for {rows}"
                    " images; under optim.exact_batch each has a row an image, those"
                    " of several views apart, in a list"
                )
        self.added += 1
        self.batches.append(batch)
        self.embedded.append(mapped(embedded, _leaf))

    def embeddings(self) -> Any:
        """Return the embeddings of all images of the step, for its loss."""
        return joined(self.embedded)

    def backward(self) -> None:
        """Pass the gradient of the embeddings on to parameters; forget the batches.

        Each micro-batch is embedded again, with the random numbers of the first time.

        Raises:
            ConfigError: in the first step, the embeddings are others than those before.
        """
        kept = [buffer.clone() for buffer in self.module.buffers()]
        for number, batch in enumerate(self.batches):
            with seeding.replayed(self.rng_states[number]):
                again = list(tensors(self.embed(number, batch)))
            leaves = list(tensors(self.embedded[number]))
            if not self.compared:
                _refuse_others(leaves, again)
            pairs = [
                (tensor, leaf.grad)
                for tensor, leaf in zip(again, leaves, strict=True)
                if tensor.requires_grad and leaf.grad is not None
            ]
            if pairs:
                torch.autograd.backward(*zip(*pairs, strict=True))
            with torch.no_grad():
                for buffer, before in zip(self.module.buffers(), kept, strict=True):
                    buffer.copy_(before)
        self.compared = True
        self._forget()


def _leaf(embedding: Tensor) -> Tensor:
    """Return an embedding that a loss gives a gradient, where it is of real numbers."""
    return embedding.detach().requires_grad_(embedding.is_floating_point())


def _refuse_others(first: list[Tensor], again: list[Tensor]) -> None:
    """Refuse embeddings that differ by more than rounding; synchronises the host."""
    for one, other in zip(first, again, strict=True):
        apart = (other.detach().double() - one.detach().double()).norm()
        if not apart <= TOLERANCE * one.detach().double().norm():
            raise ConfigError(
                "embed, called twice for one micro-batch, returned other embeddings the"
                " second time; under optim.exact_batch let it draw from torch's global"
                " generators or from self.row_keys alone, and change nothing that it"
                " reads; with dropout set hardware.compile=false"
            )
