"""Batch normalisation with the statistics of all ranks, on the CPU as on GPUs.

torch's own SyncBatchNorm refuses tensors of the CPU. Ioffe and Szegedy 2015,
https://arxiv.org/abs/1502.03167, over the batch of all processes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stable_ssl import distributed

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def convert_sync_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch norm of a module see the batch of all ranks.

    On the CPU the norms become `SyncBatchNorm` where they stand: parameters, buffers,
    hooks and references stay. On GPUs torch's converter replaces them and keeps the
    parameters; it is faster there.

    Args:
        module: a batch norm or what contains some.
        device: where it will train.

    Returns:
        The module; another one only where it is itself a batch norm on a GPU.

    Raises:
        ValueError: a norm of another class, whose own forward would be lost.
    """
    for name, child in module.named_modules():
        if isinstance(child, _BatchNorm) and type(child) not in (*PLAIN, SyncBatchNorm):
            raise ValueError(
                f"{name or 'the module'} is a {type(child).__name__}, which cannot be"
                " synchronised over ranks; use torch's BatchNorm, or normalise each"
                " rank by itself with hardware.sync_batchnorm=false"
            )
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for child in module.modules():
        if type(child) in PLAIN:
            child.__class__ = SyncBatchNorm
    return module


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the channels (N, C, ...) of all ranks; synchronises ranks.

    Parameters, buffers and their names are those of torch's norms, and in evaluation
    and in one process it is theirs. Computed in float32 at least, whatever the autocast
    state. Ranks may hold different N, above 0.

    Raises:
        ValueError: one value per channel over all ranks has no variance.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(
                f"batch norm found shape {tuple(x.shape)}; use (N, C, ...)"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalised, scaled and shifted, in its dtype."""
        batch_statistics = self.training or self.running_mean is None
        if not batch_statistics or distributed.world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        with torch.autocast(x.device.type, enabled=False):
            y = x.to(torch.promote_types(x.dtype, torch.float32))
            mean, var, count = global_moments(y)
            if self.training and self.track_running_stats:
                self._track(mean.detach(), var.detach() * (count / (count - 1)))
            shape = (1, -1) + (1,) * (x.ndim - 2)
            scale = (var + self.eps).rsqrt()
            if self.affine:
                scale = scale * self.weight
            y = (y - mean.view(shape)) * scale.view(shape)
            if self.affine:
                y = y + self.bias.view(shape)
        return y.to(x.dtype)

    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics; the variance is the unbiased one."""
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # a plain average of all batches
            momentum = 1 / self.num_batches_tracked.item()
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), momentum)


def global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance by channel over all ranks, and the count.

    One gather: every rank's own moments are joined as in Chan et al. 1979, which
    cancels nothing, unlike sums of squares. Synchronises ranks.

    Args:
        x: (N, C, ...), float32 or wider.

    Raises:
        ValueError: as of `SyncBatchNorm`.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    var, mean = torch.var_mean(x, axes, correction=0)
    count = torch.full_like(mean, x.numel() / x.shape[1])
    moments = torch.stack([mean, var, count])[None]  # (1, 3, C)
    means, variances, counts = distributed.gather(moments).unbind(1)  # (ranks, C) each
    total = counts.sum(0)
    if x.device.type == "cpu" and total[0] < 2:  # elsewhere a host sync
        raise ValueError(
            "batch norm found 1 value per channel over all ranks, expected more; use a"
            " larger batch"
        )
    share = counts / total
    mean = (share * means).sum(0)
    var = (share * (variances + (means - mean).square())).sum(0)
    return mean, var, total
