"""Cross-entropy between the codes of some views and the predictions of all others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def swapped_cross_entropy(codes: Sequence[Tensor], logits: Sequence[Tensor]) -> Tensor:
    """Return the mean of -code . log softmax(logits) over pairs of different views.

    Args:
        codes: rows that sum to 1, (N, K), of the first views.
        logits: (N, K), of all views.

    Returns:
        Scalar, the mean over the pairs and over N.
    """
    predictions = [x.log_softmax(1) for x in logits]
    pairs = [
        -(code * prediction).sum(1).mean()
        for i, code in enumerate(codes)
        for j, prediction in enumerate(predictions)
        if i != j
    ]
    return torch.stack(pairs).mean()


def check_views(name: str, codes: Sequence[Tensor], logits: Sequence[Tensor]) -> None:
    """Refuse views among which there is no pair, or which have fewer logits than codes.

    Raises:
        ValueError: with a single view, as the mean over no pair would be NaN.
    """
    if not 1 <= len(codes) <= len(logits) or len(logits) < 2:
        raise ValueError(
            f"{name} found {len(codes)} views with targets and {len(logits)} with"
            " predictions, expected 1 or more and 2 or more; the views with targets"
            " come first among those with predictions"
        )
