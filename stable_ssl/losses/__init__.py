"""Losses: pure functions of tensors, one file a family."""

from stable_ssl.losses.clustering import deepcluster, msn, sinkhorn, swav
from stable_ssl.losses.contrastive import dcl, info_nce, moco, nt_xent, sup_con
from stable_ssl.losses.covariance_contrast import second_moment, tico
from stable_ssl.losses.distillation import (
    cosine_regression,
    dino,
    feature_matching,
    gram,
    ibot,
    negative_cosine,
    ressl,
)
from stable_ssl.losses.invariance import invariance
from stable_ssl.losses.manifold import mmcr
from stable_ssl.losses.masked import (
    masked_l1,
    masked_mse,
    masked_smooth_l1,
    normalize_patches,
)
from stable_ssl.losses.redundancy import barlow_twins, vicreg
from stable_ssl.losses.semi_supervised import consistency, pseudo_label
from stable_ssl.losses.sigreg_loss import sigreg
from stable_ssl.losses.sliced import visreg
from stable_ssl.losses.spreading import koleo
from stable_ssl.losses.whitening import w_mse

__all__ = [
    "barlow_twins",
    "consistency",
    "cosine_regression",
    "dcl",
    "deepcluster",
    "dino",
    "feature_matching",
    "gram",
    "ibot",
    "info_nce",
    "invariance",
    "koleo",
    "masked_l1",
    "masked_mse",
    "masked_smooth_l1",
    "msn",
    "mmcr",
    "moco",
    "negative_cosine",
    "normalize_patches",
    "nt_xent",
    "pseudo_label",
    "ressl",
    "second_moment",
    "sigreg",
    "sinkhorn",
    "sup_con",
    "swav",
    "tico",
    "vicreg",
    "visreg",
    "w_mse",
]
