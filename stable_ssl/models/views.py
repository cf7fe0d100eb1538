"""Views of one size go through a network together, as one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def encode_views(
    encoder: Callable[[Tensor], Tensor], views: Sequence[Tensor]
) -> list[Tensor]:
    """Encode views, neighbours of one size in one pass, view after view.

    Batch norms then see all views of that size at once, as in the authors' code of
    SimCLR (https://arxiv.org/abs/2002.05709), SwAV (https://arxiv.org/abs/2006.09882)
    and DINO (https://arxiv.org/abs/2104.14294).

    Args:
        encoder: of (N, C, H, W) or (N, D), such as a backbone or a head.
        views: one or more of these; those of one size stand side by side.

    Returns:
        What the encoder makes of each view, (N, D) each.
    """
    groups: list[list[Tensor]] = []
    for view in views:
        if groups and groups[-1][0].shape[1:] == view.shape[1:]:
            groups[-1].append(view)
        else:
            groups.append([view])
    encoded: list[Tensor] = []
    for group in groups:
        joined = encoder(torch.cat(group) if len(group) > 1 else group[0])
        encoded += joined.split([len(view) for view in group])
    return encoded
