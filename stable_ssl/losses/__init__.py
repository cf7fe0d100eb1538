"""Losses: pure functions of tensors, one file a family."""

from stable_ssl.losses.contrastive import nt_xent

__all__ = ["nt_xent"]
