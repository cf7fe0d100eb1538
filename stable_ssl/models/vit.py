"""timm's vision transformer with our argument names, and its parts for decoders.

Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929. Positions are fixed and
weights drawn as in MAE, He et al. 2022, https://arxiv.org/abs/2111.06377, appendix A.1,
or as in I-JEPA, Assran et al. 2023, https://arxiv.org/abs/2301.08243.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stable_ssl.schema import ConfigError

if TYPE_CHECKING:
    from timm.models import VisionTransformer


def vit(
    in_channels: int = 3,
    image_size: int = 32,
    patch_size: int = 4,
    dim: int = 192,
    depth: int = 6,
    heads: int = 3,
    class_token: bool = True,
    pool: str | None = None,
    weight_init: str = "mae",
    **options: Any,
) -> VisionTransformer:
    """Build timm's VisionTransformer with fixed positions, (N, C, H, W) -> (N, dim).

    By default for images of 32 px, 2.7 M weights. Images may have another size than in
    training, a multiple of the patch: the positions are stretched to it.

    Args:
        in_channels: C.
        image_size: side of the training images, pixels.
        patch_size: side of a patch, pixels; divides image_size.
        dim: of tokens and features, a multiple of 4 and of heads.
        depth: number of blocks.
        heads: of each attention.
        class_token: put a learnt token before the patches.
        pool: what the features are, token, mean (of the patches) or a value of timm's
            `global_pool`; null: the class token where there is one.
        weight_init: `mae` or `ijepa`, see `draw_weights`, or a value of timm's.
        options: other arguments of timm's, such as mlp_ratio, reg_tokens, drop_rate.

    Raises:
        ConfigError: sizes that do not divide.
    """
    from timm.models import VisionTransformer

    if image_size % patch_size:
        raise ConfigError(
            f"image_size={image_size} is not divisible by patch_size={patch_size}"
        )
    _check_width(dim, heads)
    pool = pool or ("token" if class_token else "mean")
    model = VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=in_channels,
        num_classes=0,
        global_pool="avg" if pool == "mean" else pool,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        class_token=class_token,
        pos_embed="learn",  # a parameter, which fixed ones replace below
        no_embed_class=True,  # the class token has no position
        fc_norm=False,  # tokens leave the blocks normalised, whatever the pool
        dynamic_img_size=True,
        weight_init="" if weight_init in DRAWS else weight_init,
        **options,
    )
    if weight_init in DRAWS:
        draw_weights(weight_init, model)
        for token in (model.cls_token, model.reg_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)
    positions = sincos_positions(model.patch_embed.grid_size, dim)[None]
    del model.pos_embed
    model.register_buffer("pos_embed", positions)
    model.dim = dim
    return model


def transformer_blocks(dim: int, depth: int, heads: int) -> nn.Sequential:
    """Build `depth` blocks and a norm, (N, L, dim) -> (N, L, dim), as a decoder is.

    Raises:
        ConfigError: dim is not a multiple of 4 and of heads.
    """
    from timm.layers import LayerNorm
    from timm.models.vision_transformer import Block

    _check_width(dim, heads)
    blocks = [Block(dim, heads, qkv_bias=True) for _ in range(depth)]
    model = nn.Sequential(*blocks, LayerNorm(dim))
    draw_weights("mae", model)
    return model


# --- initial weights ------------------------------------------------------------------


DRAWS = {
    "mae": nn.init.xavier_uniform_,
    "ijepa": partial(nn.init.trunc_normal_, std=0.02),
}


def draw_weights(how: str, *modules: nn.Module) -> None:
    """Draw the weights of linear layers and patch embeddings anew, and clear biases.

    Args:
        how: `mae`, by Glorot's uniform distribution, a patch embedding as the linear
            layer that it is, its bias left as it was; or `ijepa`, from the normal
            distribution of deviation 0.02. That is what the authors' program trains:
            it draws once more what their model's constructor had divided by the
            block's depth.
        modules: changed in place, with what they hold.
    """
    for layer in (layer for module in modules for layer in module.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            DRAWS[how](layer.weight.detach().view(len(layer.weight), -1))
            if layer.bias is not None and (how, type(layer)) != ("mae", nn.Conv2d):
                nn.init.zeros_(layer.bias)


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Return fixed sine-cosine codes of a grid of patches, (L, dim), row by row.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5, half of the
    code for the column and half for the row, in MAE's and I-JEPA's order.

    Args:
        grid: patches along the height and the width of an image.
        dim: a multiple of 4.
    """
    frequencies = 10_000 ** -(torch.arange(dim // 4).double() / (dim // 4))
    rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    angles = torch.stack([columns, rows]).flatten(1)[..., None] * frequencies
    column_code, row_code = torch.cat([angles.sin(), angles.cos()], 2).float()
    return torch.cat([column_code, row_code], 1)


def _check_width(dim: int, heads: int) -> None:
    if dim % 4 or dim % heads:
        raise ConfigError(
            f"dim={dim}, expected a multiple of 4, for the positions, and of"
            f" heads={heads}"
        )
