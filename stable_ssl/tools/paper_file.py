"""A paper's table as its file states it: rows, columns, data sets, seeds, sources."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from stable_ssl.config import translated_errors
from stable_ssl.loggers.names import is_accuracy
from stable_ssl.schema import ConfigError, nearest

KINDS = {  # of what a key holds, and how that is called
    **dict.fromkeys(("seeds", "overrides", "columns", "rows"), (list, "a list")),
    **dict.fromkeys(("data", "published"), (dict, "keys, each with what it holds")),
}


@dataclass
class Row:
    """One row: a recipe, what differs from it, and what others published of it."""

    recipe: str = MISSING
    title: str | None = None  # null: the recipe's name
    overrides: list[str] = field(default_factory=list)
    seeds: list[int] | None = None  # null: those of the table
    # numbers by column, in its unit; by data set and column where data is given
    published: dict[str, Any] = field(default_factory=dict)
    source: str = ""  # of what was published


@dataclass
class Column:
    """One column for each data set: a metric, and when it is read."""

    value: str = MISSING  # test/knn_acc1; or `minutes`, from the first row to the last
    title: str | None = None  # null: the metric's name
    at: str = "last"  # untrained, last, best on validation, or a step


@dataclass
class Paper:
    """A table; accuracies are in per cent."""

    title: str = MISSING
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    overrides: list[str] = field(default_factory=list)  # of every run
    data: dict[str, list[str]] = field(default_factory=lambda: {"": []})  # overrides
    columns: list[Column] = MISSING
    rows: list[Row] = MISSING

    def published(self, row: Row, data: str, column: Column) -> float | None:
        """Return what others published of a cell, None where nothing is stated."""
        group = row.published if "" in self.data else row.published.get(data, {})
        return group.get(column.title)

    def titles(self, named: Sequence[str]) -> list[str]:
        """Return the titles of rows that are named by title or recipe.

        Raises:
            ConfigError: there is no such row.
        """
        known = {text for row in self.rows for text in (row.title, row.recipe)}
        for text in named:
            if text not in known:
                raise ConfigError(f"no row is called {text}{nearest(text, known)}")
        return [row.title for row in self.rows if {row.title, row.recipe} & {*named}]


def read(file: Path) -> Paper:
    """Return a table's statement, checked.

    Args:
        file: YAML; a row may be the name of a recipe alone.

    Raises:
        ConfigError: no such file, an unknown or missing key, two rows or columns of one
            title, a published figure of no column.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is no file; give the YAML file of a table")
    with translated_errors():
        found = OmegaConf.to_container(OmegaConf.load(file))
        if not isinstance(found, dict):
            raise ConfigError(f"{file} holds no keys; a table has title, columns, rows")
        _check_kinds(found, str(file))
        rows = found.get("rows") or []
        found["rows"] = [{"recipe": r} if isinstance(r, str) else r for r in rows]
        for kind in ("rows", "columns"):
            for each in found.get(kind) or []:
                if not isinstance(each, dict):
                    raise ConfigError(f"{file}, {kind}: found {each}; give its keys")
                _check_kinds(each, f"{file}, {kind}")
        if not found.get("data", True):
            del found["data"]
        schema = OmegaConf.structured(Paper)
        if "data" in found:  # instead of the default
            schema.data = {}
        paper = OmegaConf.to_object(OmegaConf.merge(schema, found))
    for row in paper.rows:
        row.title = row.title or row.recipe
        row.seeds = paper.seeds if row.seeds is None else row.seeds
    for column in paper.columns:
        column.title = column.title or column.value
    _check(paper, file)
    return paper


def _check_kinds(found: Mapping[str, Any], at: str) -> None:
    """Refuse a list where keys are expected and the like, null aside."""
    for key, value in found.items():
        kind, called = KINDS.get(key, (object, ""))
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"{at}, {key}: found {value}; give {called}")
    data = found.get("data") or {}
    for overrides in (found.get("overrides"), *data.values()):
        for text in overrides if isinstance(overrides, list) else ():
            if not isinstance(text, str):
                raise ConfigError(f"{at}: found the override {text}; give KEY=VALUE")


def _check(paper: Paper, file: Path) -> None:
    """Refuse what would be left out of a table, or be there twice."""
    for kind, named in (("rows", paper.rows), ("columns", paper.columns)):
        titles = [each.title for each in named]
        if not titles:
            raise ConfigError(f"{file}: {kind} is empty; a table has some")
        if twice := sorted(title for title in titles if titles.count(title) > 1):
            raise ConfigError(f"{file}: two {kind} are called {twice[0]}")
    for each in (paper, *paper.rows):
        if not each.seeds or len(set(each.seeds)) < len(each.seeds):
            found = f"{each.title}: found seeds: {each.seeds}"
            raise ConfigError(f"{file}, {found}; give different ones, [0, 1, 2]")
    if "" in paper.data and len(paper.data) > 1:
        raise ConfigError(f"{file}: a data set has no name; give each one")
    for column in paper.columns:
        step = int(column.at) if column.at.isdecimal() else 0
        if column.at not in ("untrained", "last", "best") and step < 1:
            raise ConfigError(
                f"{file}, column {column.title}: found at: {column.at}; give untrained,"
                " last, best or a step from 1"
            )
    for row in paper.rows:
        groups = {"": row.published} if "" in paper.data else row.published
        for data, figures in groups.items():
            _check_published(figures, data, paper, f"{file}: published of {row.title}")


def _check_published(figures: Any, data: str, paper: Paper, at: str) -> None:
    """Refuse what was published of no cell, or is no number."""
    if data not in paper.data:
        raise ConfigError(f"{at}: there is no data {data}{nearest(data, paper.data)}")
    if not isinstance(figures, Mapping):
        raise ConfigError(f"{at}: found {figures}; give numbers by data and column")
    values = {column.title: column.value for column in paper.columns}
    for title, figure in figures.items():
        if title not in values:
            near = nearest(str(title), values)
            raise ConfigError(f"{at}: there is no column {title}{near}")
        number = isinstance(figure, int | float) and not isinstance(figure, bool)
        if not number or not math.isfinite(figure):
            raise ConfigError(f"{at}, {title}: found {figure}; give a number")
        if is_accuracy(values[title]) and figure != 0 and not 1 < figure <= 100:
            raise ConfigError(f"{at}, {title}: found {figure}; give it in per cent")
