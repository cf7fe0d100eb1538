"""Files of the authors of MAE, I-JEPA and DINOv2, by the names that parts have here.

He et al. 2022, https://arxiv.org/abs/2111.06377, saves one model: an encoder without a
name of its own and a decoder whose names begin with `decoder_`. Assran et al. 2023,
https://arxiv.org/abs/2301.08243, saves `encoder`, `target_encoder` and `predictor`.
Tables of positions are fixed, here and there, and equal. Oquab et al. 2023,
https://arxiv.org/abs/2304.07193, number blocks within the chunks that one process
holds, and with registers (Darcet et al. 2023, https://arxiv.org/abs/2309.16588) give
the class token a position, which timm adds to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

MAE = [  # in their order: what the first expression finds becomes the second
    (r"decoder_pos_embed", None),
    (r"decoder_embed\.(.*)", r"narrow.\1"),
    (r"decoder_blocks\.(.*)", r"decoder.\1"),
    (r"decoder_norm\.(.*)", r"decoder.{depth}.\1"),
    (r"decoder_pred\.(.*)", r"pixels.\1"),
    (r"mask_token", r"mask_token"),
    (r"(.*)", r"backbone.\1"),
]
IJEPA = [
    (r"target_encoder\.(.*)", r"teacher.\1"),
    (r"encoder\.(.*)", r"backbone.\1"),
    (r"predictor\.predictor_pos_embed", None),
    (r"predictor\.predictor_embed\.(.*)", r"narrow.\1"),
    (r"predictor\.predictor_blocks\.(.*)", r"predictor.\1"),
    (r"predictor\.predictor_norm\.(.*)", r"predictor.{depth}.\1"),
    (r"predictor\.predictor_proj\.(.*)", r"widen.\1"),
    (r"predictor\.mask_token", r"mask_token"),
]
CHUNKED = re.compile(r"(.*\bblocks)\.\d+\.(\d+)\.((?:norm|attn|ls|mlp)\w*\..*)")
GATED = {"w12": "fc1", "w3": "fc2"}  # layers of a SwiGLU
FILES = {"decoder_pred.weight": MAE, "predictor.predictor_proj.weight": IJEPA}


def renamed(saved: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict:
    """Return the tensors of a file by our names, any others as they are.

    I-JEPA's target encoder, which its authors evaluate, comes before its encoder. The
    zeros that MAE adds to the class token are left out where the model has none.

    Args:
        saved: of the file, by dotted names without those of wrappers.
        model: of the network that is to hold them, likewise.
    """
    saved = _of_dinov2(saved)
    found = dict(saved)
    for name in saved:
        for mark, rules in FILES.items():
            prefix = name.removesuffix(mark)
            if prefix != name and (not prefix or prefix.endswith(".")):
                found = _by_rules(saved, prefix, rules)
    shapes = {tuple(t.shape) for n, t in model.items() if n.endswith("pos_embed")}
    for name, table in found.items():
        if name.endswith("pos_embed") and table.ndim == 3:
            shorter = table[:, 1:]
            fits = tuple(table.shape) not in shapes and tuple(shorter.shape) in shapes
            if fits and not table[:, 0].any():
                found[name] = shorter
    return found


def _of_dinov2(saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's tensors as timm's networks have them, where it is DINOv2's."""
    found = {}
    for name, tensor in saved.items():
        if match := CHUNKED.fullmatch(name):  # a block keeps its number in all of them
            name = ".".join(match.groups())
        name = re.sub(
            r"(?<=\bmlp\.)(w12|w3)(?=\.)", lambda layer: GATED[layer[0]], name
        )
        found[name] = tensor
    if len(found) < len(saved):  # blocks of stages, each from 0 on
        found = dict(saved)
    for name in [name for name in found if name.endswith("register_tokens")]:
        prefix = name.removesuffix("register_tokens")
        token, places = f"{prefix}cls_token", f"{prefix}pos_embed"
        if token in found and places in found:
            found[f"{prefix}reg_token"] = found.pop(name)
            found[token] = found[token] + found[places][:, :1]
            found[places] = found[places][:, 1:]
    return found


def _by_rules(
    saved: Mapping[str, Tensor], prefix: str, rules: list[tuple[str, str | None]]
) -> dict[str, Tensor]:
    """Return a file's tensors, those that have a prefix by their new names first."""
    blocks = [re.search(r"(?:decoder|predictor)_blocks\.(\d+)", name) for name in saved]
    depth = 1 + max((int(number[1]) for number in blocks if number), default=-1)
    ours, others = {}, {}
    for name, tensor in saved.items():
        if not name.startswith(prefix):
            others[name] = tensor
            continue
        for pattern, new in rules:
            if match := re.fullmatch(pattern, name[len(prefix) :]):
                if new is not None:
                    ours[match.expand(new).format(depth=depth)] = tensor
                break
        else:
            others[name] = tensor
    first = sorted(ours, key=lambda name: not name.startswith("teacher."))
    return {name: ours[name] for name in first} | others
