"""Batch normalisation with the statistics of all ranks, on the CPU as on GPUs.

torch's SyncBatchNorm refuses tensors of the CPU. Ioffe and Szegedy 2015,
https://arxiv.org/abs/1502.03167, over the batch of all processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from stable_ssl import distributed
from stable_ssl.schema import ConfigError

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


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
        ConfigError: a norm of another class, whose `forward` would be lost.
    """
    for name, child in module.named_modules():
        if isinstance(child, _BatchNorm) and type(child) not in (*NORMS, SyncBatchNorm):
            raise ConfigError(
                f"{name or 'the module'} is a {type(child).__name__}, which cannot be"
                " synchronised over ranks; use torch's BatchNorm, or normalise each"
                " rank by itself with hardware.sync_batchnorm=false"
            )
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for child in module.modules():
        if type(child) in NORMS:
            child.__class__ = SyncBatchNorm
    return module


def batch_norms(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the norms, by name, that see statistics of a batch in training."""
    for name, child in module.named_modules():
        if isinstance(child, _BatchNorm) and child.training:
            yield name, child


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the channels (N, C, ...) of all ranks; synchronises ranks.

    Parameters, buffers and their names are those of torch's norms, and in evaluation
    and in one process it is theirs. Computed in float32 at least, whatever the autocast
    state. Ranks may hold different N, above 0.

    Raises:
        ConfigError: one value per channel over all ranks has no variance.
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
            mean, var, count = global_moments(y.detach())
            if self.training and self.track_running_stats:
                self._track(mean, var * (count / (count - 1)))
            y = _Normalise.apply(y, self.weight, self.bias, mean, var, count, self.eps)
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


class _Normalise(Function):
    """Batch norm with the moments of all ranks, which depend on x themselves.

    With h = (x - mean) / std, n values a channel over all ranks and means over those,
    dx = weight / std * (dy - mean(dy) - h mean(dy h)): Ioffe and Szegedy 2015, section
    3. By torch's fused kernels: one pass over the batch forward, three backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        return batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        if torch.is_grad_enabled():  # as for a penalty of the gradient
            gradients = _gradients(dy, x, weight, count, ctx.eps)
            return *gradients, None, None, None, None
        _, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, None, mean, var, None, None, False, ctx.eps, (False, True, True)
        )
        affine_gradients = (dweight, dbias) if weight is not None else (None, None)
        sums = distributed.all_sum(torch.stack([dweight, dbias]))
        mean_dy_h, mean_dy = sums / count
        scale = (var + ctx.eps).rsqrt()
        if weight is not None:
            scale = scale * weight
        dx = batch_norm(x, mean, var, -scale * mean_dy_h, -scale * mean_dy, eps=ctx.eps)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        dx.addcmul_(dy, scale.view(shape))
        return dx, *affine_gradients, None, None, None, None


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor | None, count: Tensor, eps: float
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return what `_Normalise.backward` does, by operations that have a gradient.

    Slower. Synchronises ranks, and so does its gradient.
    """
    others = [d for d in range(x.ndim) if d != 1]

    def column(values: Tensor) -> Tensor:
        return values.view(1, -1, *[1] * (x.ndim - 2))

    def mean(values: Tensor) -> Tensor:
        return distributed.all_sum(values.sum(others)) / count

    centred = x - column(mean(x))
    std = (mean(centred.square()) + eps).sqrt()
    h = centred / column(std)
    slope = dy - column(mean(dy)) - h * column(mean(dy * h))
    if weight is None:
        return slope / column(std), None, None
    dx = slope * column(weight / std)
    return dx, (dy * h).sum(others), dy.sum(others)


def global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance by channel over all ranks, and the count.

    In one gather the moments of each rank are joined as in Chan et al. 1979: sums of
    squares would lose precision where the mean is large. Synchronises ranks.

    Args:
        x: (N, C, ...), float32 or wider.

    Raises:
        ConfigError: on the CPU, as of `SyncBatchNorm`.
    """
    moments = x.new_zeros(1, 3, x.shape[1])
    if x.numel():  # torch.var_mean takes 5 to 20 times as long as this
        mean, var = torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)
        moments[0, 0], moments[0, 1] = mean, var
        moments[0, 2] = x.numel() / x.shape[1]
    means, variances, counts = distributed.gather(moments).unbind(1)  # (ranks, C) each
    total = counts.sum(0)
    if x.device.type == "cpu" and total[0] < 2:  # a GPU would be waited for
        raise ConfigError(
            "batch norm found 1 value per channel over all ranks, expected more; use a"
            " larger data.batch_size, or drop_last: true for the last batch"
        )
    share = counts / total
    mean = (share * means).sum(0)
    var = (share * (variances + (means - mean).square())).sum(0)
    return mean, var, total
