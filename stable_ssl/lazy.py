"""Names of a package that are imported when they are first asked for.

So a module of it that needs no torch, such as one that states keys of a configuration,
is imported without those that do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` (PEP 562) and `__all__` of a package.

    Args:
        package: its name.
        names: by the module that each comes from, those of one separated by spaces.
    """
    homes = {name: module for module, own in names.items() for name in own.split()}

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return find, lambda: sorted(homes), sorted(homes)
