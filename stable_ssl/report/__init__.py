"""Reports from run folders: frames, tables and figures; needs no torch."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "load": "reader",
    "read_rows": "reader",
    "read_runs": "reader",
    "summary": "summaries",
    "overview": "summaries",
    "render": "layout",
    "table": "tables",
    "learning_curves": "learning",
    "curves": "figures",
    "sweep": "figures",
    "heatmap": "figures",
    "compare": "figures",
    "spectrum": "figures",
    "save": "style",
    "page": "html",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return sorted(__all__)
