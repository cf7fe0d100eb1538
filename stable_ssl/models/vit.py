"""timm's vision transformer with our argument names, and its parts for decoders.

Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929. Positions are fixed and
weights drawn as in MAE, He et al. 2022, https://arxiv.org/abs/2111.06377, appendix A.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    weight_init: str = "jax",
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
        weight_init: as in timm; `jax` is nearest to MAE.
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
        weight_init=weight_init,
        **options,
    )
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
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Return fixed sine-cosine codes of a grid of patches, (L, dim), row by row.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5, half of the
    code for the row and half for the column.

    Args:
        grid: patches along the height and the width of an image.
        dim: a multiple of 4.
    """
    from timm.layers import build_sincos2d_pos_embed

    return build_sincos2d_pos_embed(list(grid), dim)


def _check_width(dim: int, heads: int) -> None:
    if dim % 4 or dim % heads:
        raise ConfigError(
            f"dim={dim}, expected a multiple of 4, for the positions, and of"
            f" heads={heads}"
        )
