"""stable-SSL: from a research idea to a figure in ten minutes.

Names are imported when they are first used, so that `import stable_ssl` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "BaseTrainer": "trainer",
    "Diverged": "trainer",
    "Evaluator": "evaluation.evaluator",
    "OnlineEvaluator": "evaluation.evaluator",
    "LayerKnn": "evaluation.layers",
    "LayerLinear": "evaluation.layers",
    "LayerProbe": "evaluation.layers",
    "AttentiveProbe": "evaluation.layers",
    "Metric": "loggers.names",
    "ConfigError": "schema",
    "load": "loading",
    "load_config": "config",
    "launch": "commands",
    "register_dataset": "data",
}
_MODULES = ("data", "losses", "methods", "models", "optim", "report", "seeding")

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    methods = importlib.import_module(f"{__name__}.methods")
    if name in methods.METHODS.values():
        return getattr(methods, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return sorted(__all__)
