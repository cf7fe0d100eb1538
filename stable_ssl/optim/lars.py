"""LARS: Large Batch Training of Convolutional Networks.

You et al. 2017, https://arxiv.org/abs/1708.03888

Momentum SGD in which each tensor moves by a fixed share of its own norm, so that a
large batch, and its large learning rate, leaves no layer behind or blown up.
Differs from the paper: the learning rate multiplies the momentum buffer, as in
torch.optim.SGD, and not what enters it, so that a new rate acts at once.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from stable_ssl.distributed.sharding import local, norms


class LARS(Optimizer):
    """SGD with momentum m on g' = r (g + b w), trust ratio r = t |w| / (|g| + b |w|).

    Args:
        params: tensors or groups. A group with `adapt: False`, for biases and norms,
            has r = 1: plain SGD.
        lr: learning rate, gamma in the paper.
        momentum: m, without dampening; the buffer starts at the first g'.
        weight_decay: b, beta in the paper.
        trust_coefficient: t, eta in the paper.
        clip_lr: use min(r / lr, 1) instead of r, so that a tensor's rate is r and lr is
            its ceiling, not its scale (known as LARC).
        nesterov: apply g' + m v instead of the buffer v.
        adapt: use the trust ratio. It is 1 where |w| or |g| is 0.

    Raises:
        ValueError: a negative value, or nesterov without momentum.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        clip_lr: bool = False,
        nesterov: bool = False,
        adapt: bool = True,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "clip_lr": clip_lr,
            "nesterov": nesterov,
            "adapt": adapt,
        }
        for name, value in defaults.items():
            if value < 0:
                raise ValueError(f"LARS found {name}={value}; use 0 or more")
        if nesterov and not momentum:
            raise ValueError("LARS found nesterov with momentum=0; set momentum")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update the weights once; no host synchronisation."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if weights:
                self._update(group, weights)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        weights = [local(p) for p in parameters]
        grads = [local(p.grad) for p in parameters]
        decay, momentum = group["weight_decay"], group["momentum"]
        updates = grads
        if decay or group["adapt"]:  # a copy, the gradients are the caller's
            updates = torch._foreach_add(grads, weights, alpha=decay)
        if group["adapt"]:
            torch._foreach_mul_(updates, trust_ratios(group, parameters))
        if momentum:
            for p in parameters:
                if p not in self.state:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [local(self.state[p]["momentum_buffer"]) for p in parameters]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, updates)
            if group["nesterov"]:
                updates = torch._foreach_add(updates, buffers, alpha=momentum)
            else:
                updates = buffers
        torch._foreach_add_(weights, updates, alpha=-group["lr"])


def trust_ratios(group: dict[str, Any], parameters: list[Tensor]) -> list[Tensor]:
    """Return r of each tensor, scalars on its device."""
    w, g = norms(parameters), norms([p.grad for p in parameters])
    ratios = group["trust_coefficient"] * w / (g + group["weight_decay"] * w)
    if group["clip_lr"]:
        ratios = (ratios / group["lr"]).clamp(max=1.0)  # lr = 0 gives 1
    return list(torch.where((w > 0) & (g > 0), ratios, 1.0).unbind())
