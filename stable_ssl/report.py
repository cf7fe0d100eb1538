"""What a notebook asks of run folders: frames, tables, figures, a page; no torch.

The functions are those of `stable_ssl.tools`, each imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "load": "tools.runs",
    "read_runs": "tools.runs",
    "read_rows": "loggers.jsonl",
    "render": "loggers.table",
    "summary": "tools.summary",
    "overview": "tools.summary",
    "table": "tools.table",
    "learning_curves": "tools.learning_curves",
    "curves": "tools.figures",
    "sweep": "tools.figures",
    "heatmap": "tools.figures",
    "compare": "tools.figures",
    "spectrum": "tools.figures",
    "save": "tools.style",
    "page": "tools.page",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"stable_ssl.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return sorted(__all__)
