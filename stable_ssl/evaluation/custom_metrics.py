"""Metrics of the user's own, by dotted path: `log.metrics`, tried before training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stable_ssl.evaluation.predictions import TASKS, Score
from stable_ssl.instantiate import find_object
from stable_ssl.schema import ConfigError

LIKE = "{callable: torchmetrics.functional.accuracy, kwargs: {task: multiclass}}"


def custom_metrics(
    nodes: Mapping[str, Any], task: str, num_classes: int | None
) -> dict[str, Score]:
    """Return functions of (predictions, labels), each tried on one sample a class.

    Args:
        nodes: `log.metrics`: {name: {callable: dotted.path, kwargs: {...}}}. The
            callable is a function (predictions, labels, **kwargs) -> scalar, or a class
            made with the kwargs whose instance is called so, as torchmetrics' are.
        task: of `Scores`, which says the shapes.
        num_classes: C; None where nothing is predicted.

    Raises:
        ConfigError: an unknown path, a metric that fails or returns no scalar, the name
            of a metric that is measured anyway, nothing that predicts.
    """
    if nodes and not num_classes:
        raise ConfigError(
            f"log.metrics={list(nodes)} needs predictions of labelled data, and there"
            " are none; set log.eval.linear for a probe, `predicts = True` in a"
            " classifier, data.num_classes if the data does not state it, or"
            " log.metrics={}"
        )
    return {
        name: _metric(name, node, task, num_classes) for name, node in nodes.items()
    }


def _metric(name: str, node: Any, task: str, num_classes: int) -> Score:
    """Build one metric and try it."""
    at = f"log.metrics.{name}"
    keys = set(node) if isinstance(node, Mapping) else set()
    if "callable" not in keys or keys - {"callable", "kwargs"}:
        raise ConfigError(f"{at}={node}: write {LIKE}")
    if name in {"acc1", "acc5", "loss", *TASKS[task]}:
        raise ConfigError(f"{at}: {name} is measured anyway; choose another name")
    target = find_object(node["callable"], f"{at}.callable")
    kwargs = dict(node.get("kwargs") or {})
    if isinstance(target, type):
        metric = partial(_of_instance, partial(target, **kwargs))
    else:
        metric = partial(target, **kwargs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            float(metric(*_one_sample_a_class(task, num_classes)))
    except Exception as error:
        raise ConfigError(
            f"{at}: {node['callable']} with {kwargs} fails on {num_classes} samples,"
            f" one a class ({_in_a_line(error)}); it must take predictions and labels"
            " of a split and return a scalar"
        ) from error
    return metric


def _of_instance(make: Callable[[], Any], predictions: Tensor, labels: Tensor) -> Any:
    """Call a new instance, on the device of the predictions if it is a module."""
    metric = make()
    if isinstance(metric, torch.nn.Module):
        metric = metric.to(predictions.device)
    return metric(predictions, labels)


def _one_sample_a_class(task: str, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return predictions without fault and their labels, shaped as the task's."""
    if task == "binary":
        return torch.tensor([-1.0, 1.0]), torch.tensor([0, 1])
    logits = 2 * torch.eye(num_classes) - 1
    labels = torch.arange(num_classes) if task == "multiclass" else (logits > 0).long()
    return logits, labels


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
