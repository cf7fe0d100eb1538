"""Build an optimizer and its parameter groups from a configuration."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from stable_ssl.distributed.sharding import is_sharded
from stable_ssl.instantiate import accepted_by, find_object
from stable_ssl.optim.config import Optim
from stable_ssl.optim.lars import LARS
from stable_ssl.optim.layer_decay import layer_scales
from stable_ssl.schema import ConfigError, nearest

GROUP_KEYS = ("pattern", "lr", "weight_decay", "schedule")
Build = Callable[..., Optimizer]  # a class or a function that returns an optimizer
Rule = dict[str, Any]  # an entry of `groups`, its pattern compiled
# of a group: rule, whether matrices, scale of the lr, whether sharded, since kernels
# that update many weights at once take either kind
Kind = tuple[int, bool, float, bool]


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    config: Optim,
    batch_size: int | None = None,
    at: str = "optim",
) -> Optimizer:
    """Build the optimizer of the trainable parameters.

    Biases and norms (one dimension or none) decay only where asked, and LARS does not
    adapt them.
    Each group carries `base_lr`, the rate its schedule multiplies, and `schedule`,
    whether one does; `optimizer.defaults["lr"]` is the scaled `config.lr`.

    Args:
        named_parameters: as `module.named_parameters()` gives them.
        config: or what has some of its keys. optimizer: a torch.optim name or lars in
            any case, or {_target_: dotted path, further arguments}. lr, weight_decay,
            momentum, nesterov and betas are passed to an optimizer that takes them.
            scale_lr_by: see `base_lr`; scales the groups' lr too. groups: a list of
            {pattern, lr, weight_decay, schedule}; the first regular expression found in
            a parameter's name wins, absent keys are the optimizer's, and
            `schedule: false` keeps the rate constant. layer_decay: see `layer_scales`;
            multiplies the groups' lr too. decay_bias_and_norm: whether weight_decay is
            for those, too. Missing keys are not set.
        batch_size: samples an optimizer step, over all processes.
        at: path of the config in the whole, for messages.

    Raises:
        ConfigError: nothing to train, a pattern that finds no parameter, what
            `check_optimizer` refuses, a value that the optimizer refuses.
    """
    parameters = [(name, p) for name, p in named_parameters if p.requires_grad]
    if not parameters:
        raise ConfigError(
            "found no trainable parameters; assign a module to the trainer in "
            "initialize_modules, or unfreeze one"
        )
    name, build, options, rules = check_optimizer(config, at)
    options["lr"] = base_lr(config, batch_size)
    accepted = accepted_by(build)
    groups = _groups(parameters, config, batch_size, rules, accepted)
    try:
        optimizer = build(groups, **options)
    except (TypeError, ValueError) as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        a_text = any(isinstance(value, str) for value in options.values())
        if isinstance(error, TypeError) and not (unknown or a_text):
            raise
        hint = nearest(unknown.group(1), accepted) if unknown else ""
        raise ConfigError(f"{at}.optimizer={name} refuses: {error}{hint}") from error
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"{at}.optimizer={name} makes a {type(optimizer).__name__}; name a class of"
            " optimizers, torch.optim.Optimizer"
        )
    return optimizer


def check_optimizer(
    config: Optim, at: str = "optim"
) -> tuple[str, Build, dict[str, Any], list[Rule]]:
    """Read all that can be read of an optimizer's config without its parameters.

    Args:
        config: as for `build_optimizer`.
        at: likewise.

    Returns:
        Its name, its constructor, the constructor's arguments except the learning rate,
        and the rules that split the parameters, the one for the rest last.

    Raises:
        ConfigError: an unknown optimizer, a value that it does not take, a group that
            is none.
    """
    spec = getattr(config, "optimizer", Optim.optimizer)
    name, build, options = _resolve(spec, at)
    accepted = accepted_by(build)
    options = {**_hyperparameters(config, name, accepted, options, at), **options}
    groups = getattr(config, "groups", None) or ()
    rules = [_rule(group, name, accepted) for group in groups]
    return name, build, options, [*rules, {"pattern": re.compile("")}]


def base_lr(
    config: Optim, batch_size: int | None = None, lr: float | None = None
) -> float:
    """Return `lr`, config.lr if None, times batch_size / scale_lr_by where that is set.

    The linear scaling rule of Goyal et al. 2017, https://arxiv.org/abs/1706.02677.

    Raises:
        ConfigError: scale_lr_by is set and the batch size is not known.
    """
    lr = config.lr if lr is None else lr
    scale_lr_by = getattr(config, "scale_lr_by", None)
    if scale_lr_by is None:
        return lr
    if batch_size is None:
        raise ConfigError(
            f"optim.scale_lr_by={scale_lr_by} needs a batch size, and the train loader"
            " states none; give it the attribute batch_size, or set scale_lr_by to null"
        )
    return lr * batch_size / scale_lr_by


# --- which optimizer ------------------------------------------------------------------


def _resolve(
    spec: str | Mapping[str, Any], at: str
) -> tuple[str, Build, dict[str, Any]]:
    """Return the optimizer's name, its constructor and the arguments stated for it."""
    if isinstance(spec, str):
        classes = _classes()
        if spec.lower() not in classes:
            raise ConfigError(
                f"{at}.optimizer={spec} is neither lars nor in torch.optim"
                f"{nearest(spec, classes)}; for another one use"
                " {_target_: dotted.path}"
            )
        return spec, classes[spec.lower()], {}
    if isinstance(spec, DictConfig):
        spec = OmegaConf.to_container(spec, resolve=True)
    if not isinstance(spec, Mapping) or not isinstance(spec.get("_target_"), str):
        raise ConfigError(
            f"{at}.optimizer={spec} has no _target_; expected a name, or "
            "{_target_: dotted.path, its own arguments}"
        )
    options = dict(spec)
    path = options.pop("_target_")
    for name in ("lr", "weight_decay"):
        if name in options:
            raise ConfigError(
                f"{at}.optimizer sets {name}={options[name]}; set {at}.{name} instead"
            )
    return path, find_object(path, f"{at}.optimizer._target_"), options


def _classes() -> dict[str, type[Optimizer]]:
    """Return torch.optim's classes by lower-case name, and LARS.

    LBFGS is not among them: it needs a closure and takes no parameter groups.
    """
    classes = {
        name.lower(): cls
        for name, cls in vars(torch.optim).items()
        if inspect.isclass(cls) and issubclass(cls, Optimizer)
    }
    del classes["optimizer"], classes["lbfgs"]
    return {**classes, "lars": LARS}


def _hyperparameters(
    config: Optim,
    name: str,
    accepted: Collection[str],
    stated: Collection[str],
    at: str,
) -> dict[str, Any]:
    """Return the config's values that the optimizer takes; refuse those set in vain."""
    values = {}
    defaults = Optim()
    for option in ("weight_decay", "momentum", "nesterov", "betas"):
        value = getattr(config, option, None)
        if value is None or option in stated:
            continue
        if option == "betas":
            value = list(value)
        if option in accepted:
            values[option] = value
        elif value != getattr(defaults, option):
            raise ConfigError(
                f"{at}.{option}={value} is set and {name} does not take it; "
                f"remove it, or choose an optimizer with {option}"
            )
    return values


# --- parameter groups -----------------------------------------------------------------


def _groups(
    parameters: list[tuple[str, nn.Parameter]],
    config: Optim,
    batch_size: int | None,
    rules: list[Rule],
    accepted: Collection[str],
) -> list[dict[str, Any]]:
    """Split the parameters by the first pattern that fits, and whether they decay."""
    layer_decay = getattr(config, "layer_decay", None) or 1.0
    scales = layer_scales(parameters, layer_decay)
    if layer_decay < 1 and set(scales) == {1.0}:
        raise ConfigError(
            f"optim.layer_decay={layer_decay} finds no numbered layers among parameters"
            f" like {parameters[0][0]}, {parameters[-1][0]}; use optim.groups instead"
        )
    all_decay = getattr(config, "decay_bias_and_norm", False)
    split: dict[Kind, list[nn.Parameter]] = {}
    for (path, parameter), scale in zip(parameters, scales, strict=True):
        i = next(i for i, rule in enumerate(rules) if rule["pattern"].search(path))
        decay = rules[i].get("weight_decay", getattr(config, "weight_decay", 0))
        # vectors that are treated as matrices join their group: fewer cost less a step
        same = "adapt" not in accepted and (not decay or all_decay)
        kind = i, same or parameter.ndim > 1, scale, is_sharded(parameter)
        split.setdefault(kind, []).append(parameter)
    _check_matches(rules, split, parameters, all_decay)
    groups = []
    for (i, matrix, scale, _), members in split.items():
        rule = rules[i]
        lr = scale * base_lr(config, batch_size, rule.get("lr"))
        scheduled = rule.get("schedule") is not False
        group = {"params": members, "lr": lr, "base_lr": lr, "schedule": scheduled}
        if not (matrix or all_decay) and "weight_decay" in accepted:
            group["weight_decay"] = 0.0
        elif rule.get("weight_decay") is not None:
            group["weight_decay"] = rule["weight_decay"]
        if not matrix and "adapt" in accepted:
            group["adapt"] = False
        groups.append(group)
    return groups


def _check_matches(
    rules: list[Rule],
    split: Iterable[Kind],
    parameters: list[tuple[str, nn.Parameter]],
    all_decay: bool,
) -> None:
    """Refuse rules that find nothing, or nothing that their weight decay is for."""
    for i, rule in enumerate(rules[:-1]):
        at = f"optim.groups: pattern={rule['pattern'].pattern}"
        matrices = [matrix for j, matrix, *_ in split if j == i]  # of its groups
        if not matrices:
            raise ConfigError(
                f"{at} finds no trainable parameter that an earlier one has not taken;"
                f" their names are like {parameters[0][0]}, {parameters[-1][0]}"
            )
        if rule.get("weight_decay") and not any(matrices) and not all_decay:
            raise ConfigError(
                f"{at} finds biases and norms only, which do not take its weight_decay="
                f"{rule['weight_decay']}; remove it, or set"
                " optim.decay_bias_and_norm=true"
            )


def _rule(group: Mapping[str, Any], name: str, accepted: Collection[str]) -> Rule:
    """Check one entry of `groups` and compile its pattern."""
    known = f"(a group knows {', '.join(GROUP_KEYS)})"
    if not isinstance(group, Mapping):
        raise ConfigError(
            f"optim.groups: found {group}, expected {{pattern: ..., lr: ...}} {known}"
        )
    for option in group:
        if option not in GROUP_KEYS:
            hint = nearest(str(option), GROUP_KEYS)
            raise ConfigError(f"optim.groups: {option} is not a key{hint} {known}")
    for option in ("lr", "weight_decay"):
        value = group.get(option)
        number = type(value) in (int, float) and 0 <= value < math.inf
        if value is not None and not number:
            raise ConfigError(
                f"optim.groups: {option}={value}, expected a number from 0"
            )
    if not isinstance(group.get("schedule", True), bool):
        raise ConfigError(
            f"optim.groups: schedule={group['schedule']}, expected true or false"
        )
    if group.get("weight_decay") and "weight_decay" not in accepted:
        raise ConfigError(
            f"optim.groups: weight_decay={group['weight_decay']} is set and {name} does"
            " not take it; remove it"
        )
    try:
        return {**group, "pattern": re.compile(group["pattern"])}
    except (KeyError, TypeError, re.error) as error:
        raise ConfigError(
            f"optim.groups: found pattern={group.get('pattern')} ({error}), expected a "
            "regular expression that is searched in the parameters' names"
        ) from error
