"""How deep in a network a parameter lies, for learning rates that decay with depth."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

NUMBERED = re.compile(r"^(.*?(?:^|\.)(?:\d+|\w+_\d+))\.")  # "blocks.3", "layer1.0"


def layer_scales(parameters: Sequence[tuple[str, Tensor]], decay: float) -> list[float]:
    """Return the factor of each parameter's learning rate: 1 at the top, less below.

    decay ** (L + 1 - l) for a layer l of L: BEiT, Bao et al. 2021,
    https://arxiv.org/abs/2106.08254, appendix. A layer is what shares a name up to its
    first number, a block of a ViT or ResNet; one of vectors alone, such as a norm, goes
    with the one before. What comes before the first one (patches, positions, stem) is
    layer 0, what is not numbered after it (last norm, heads) L + 1.

    Args:
        parameters: with their names, in the order of the network.
        decay: from one layer to the one below.

    Returns:
        A factor for each parameter. All are 1 where nothing is numbered.
    """
    matches = [NUMBERED.match(name) for name, _ in parameters]
    named = zip(matches, parameters, strict=True)
    layers = list(dict.fromkeys(m[1] for m, (_, p) in named if m and p.ndim > 1))
    top, depth, scales = len(layers) + 1, 0, []
    for match in matches:
        if match and match[1] in layers:
            depth = 1 + layers.index(match[1])
        above = not match and depth > 0
        scales.append(decay ** (top - depth) if layers and not above else 1.0)
    return scales
