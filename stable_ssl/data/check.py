"""Data that lack what a run needs, refused before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stable_ssl.config import ConfigError


def check_views(
    loader: Any, exact: int | dict[str, int] | None, least: int, method: str
) -> None:
    """Refuse a train loader that makes more or fewer views than a method needs.

    Args:
        loader: its `views` are counted; one that does not tell passes.
        exact: views of an image, of each loader by name where there are several; None
            asks for `least` or more.
        least: see `exact`.
        method: name of the trainer's class, for the message.

    Raises:
        ConfigError: says how many there are and how many are needed.
    """
    if isinstance(exact, dict):
        parts = getattr(loader, "loaders", {})
        views = {name: len(part.views) for name, part in parts.items()}
        if loader is not None and views != exact:
            raise ConfigError(
                f"data.train makes the views {views}, and {method} needs {exact}; write"
                " it as data=digits_few does"
            )
        return
    found = len(getattr(loader, "views", ()))
    if found and (found < least or exact not in (None, found)):
        raise ConfigError(
            f"data.train.dataset.image_transform makes views: {found}, and"
            f" {method} needs {exact or f'{least} or more'}; one list of ops is one"
            " view, a list of lists several, global ones first"
        )


def check_split(mode: str, splits: Iterable[str]) -> None:
    """Refuse to evaluate a split that the data does not have.

    Args:
        mode: validate or test; others need none of the two.
        splits: names of the loaders: `val`, or `val_<name>` of several.

    Raises:
        ConfigError: no such split.
    """
    split = {"validate": "val", "test": "test"}.get(mode)
    if split and not any(name.partition("_")[0] == split for name in splits):
        raise ConfigError(f"mode={mode} needs data.{split}, which is null")
