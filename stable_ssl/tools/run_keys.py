"""What tells runs apart: the keys that differ, and the metrics there are."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stable_ssl.loggers.names import NONE, better, in_order, is_number
from stable_ssl.loggers.table import printable
from stable_ssl.schema import ConfigError, nearest

if TYPE_CHECKING:
    from pandas import DataFrame, Series

SEED = "hardware.seed"
FACTS = {"run", "folder", "status", "reason", "versions", "step", "epoch", "time"}
NAMES = set(  # which run it is, and nothing of what it does
    "log.run log.folder log.experiment log.resume log.tags log.entity"
    " log.project".split()
)
LONGEST, MOST = 40, 8  # characters of a value, and values, that are listed
FIRST = ("model.name", "data.train.dataset.name", "model.backbone.name")


def cell(value: Any) -> str:
    """Return a value of a config as text, `-` where there is none."""
    return NONE if value is None or value != value else str(value)  # nan


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the dotted keys whose values differ, names of runs aside."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        key
        for key in keys
        if key not in NAMES and len({cell(config.get(key)) for config in configs}) > 1
    ]


def keys(runs: DataFrame) -> list[str]:
    """Return the config's keys among the columns of a frame of runs."""
    return [name for name in runs if name not in FACTS and "/" not in name]


def metrics(runs: DataFrame) -> list[str]:
    """Return the metrics that a frame of runs has values of, test before val."""
    names = [n for n in runs if "/" in n and not n.startswith("perf/")]
    return in_order((n for n in names if has_numbers(runs[n])), ["test", "val"])


def has_numbers(column: Series) -> bool:
    """Return whether a column holds numbers alone, nan aside, and at least one."""
    return column.dtype.kind in "iuf" and bool(column.notna().any())


def telling(runs: DataFrame, given: Sequence[str] = ()) -> list[str]:
    """Return few keys that tell all runs apart that differ in more than the seed.

    A key is left out where those before it, or `given`, decide its value: the
    temperature of a method that is the only one to have any.
    """
    differ = _differing(runs)
    chosen = list(given)
    for name in dict.fromkeys([*(name for name in FIRST if name in differ), *differ]):
        more = len(groups(runs, [*chosen, name])) > len(groups(runs, chosen))
        if name != SEED and more:
            chosen.append(name)
    return chosen[len(given) :]


def _differing(runs: DataFrame) -> list[str]:
    return differing(runs[keys(runs)].to_dict("records"))


def usual(runs: DataFrame) -> list[str]:
    """Return the metrics to show where none is asked for: accuracies of test or val.

    Where there is none, the loss of val or train, or any other.

    Raises:
        ConfigError: there is no metric.
    """
    known = metrics(runs)
    if not known:
        raise ConfigError(_why_none(runs))
    accuracies = [name for name in known if name.endswith("acc1")]
    tested = [name for name in accuracies if name.startswith("test/")]
    losses = [name for name in ("val/loss", "train/loss") if name in known]
    return tested or accuracies or [*losses, *known][:1]


def _why_none(runs: DataFrame) -> str:
    """Say why no run has a metric."""
    at = runs.attrs.get("at", "last")
    if at == "best":
        return (
            "no run has a best step: log.monitor is null, or was never a number; give"
            " --at last, or a step"
        )
    if at != "last":
        return f"no run came to step {at}; give an earlier one"
    if (runs["status"] == "running").any():
        return "these runs have no metric yet; wait for their first row"
    return "these runs have no metric that is a number after their first step"


def when(runs: DataFrame) -> str:
    """Return ", at the best step on validation" or the like; nothing of last values."""
    at = runs.attrs.get("at", "last")
    known = {"last": "", "best": ", at the best step on validation"}
    return known.get(at, f", at step {at}")


def preferred(runs: DataFrame, metric: str) -> str | None:
    """Return whether high or low values of a metric are good, None if unknown."""
    if "log.monitor" in runs and "log.monitor_mode" in runs:
        modes = set(runs["log.monitor_mode"][runs["log.monitor"] == metric])
        if len(modes) == 1:
            return {"max": "high", "min": "low"}.get(modes.pop())
    return better(metric)


def distinct(values: Iterable[Any]) -> list[str]:
    """Return the texts of values, each once, numbers in order and before words."""
    return sorted({cell(value) for value in values}, key=rank)


def numeric(texts: Iterable[str]) -> bool:
    """Return whether all values are numbers."""
    return all(map(is_number, texts))


def groups(runs: DataFrame, names: Sequence[str]) -> dict[tuple[str, ...], DataFrame]:
    """Return the runs by their values of keys, numbers in order and before words."""
    if not names:
        return {(): runs}
    groups = runs.groupby([runs[name].map(cell) for name in names], sort=False)
    return dict(sorted(groups, key=lambda item: [rank(text) for text in item[0]]))


def rank(text: str) -> tuple[int, float, str]:
    """Return a key to sort values by: numbers by size, then words."""
    return (0, float(text), text) if is_number(text) else (1, 0.0, text)


# --- what to say ----------------------------------------------------------------------

LEFT_OUT = "runs without a value are left out: {}"


def offer(runs: DataFrame) -> str:
    """Return the keys that differ, with their values, and the metrics there are."""
    lines = []
    for name in _differing(runs):
        values = distinct(runs[name])
        if max(map(len, values)) <= LONGEST:
            more = ", ..." if len(values) > MOST else ""
            lines.append(f"{name}: {', '.join(values[:MOST])}{more}")
    lines = ["keys that differ:", *(f"  {printable(line)}" for line in lines)]
    return "\n".join([*lines, "metrics:", f"  {printable('  '.join(metrics(runs)))}"])


def with_values(runs: DataFrame, valued: Series) -> DataFrame:
    """Return the runs of which `valued` is true; warn of the others."""
    _warn(LEFT_OUT, _endings(runs[~valued]))
    return trainings(runs[valued])


def trainings(runs: DataFrame) -> DataFrame:
    """Leave out runs that evaluate beside those that train; warn of them.

    They measure a network again, so they would count as another seed of it.
    """
    if "mode" not in runs:
        return runs
    fits = runs["mode"].isna() | (runs["mode"] == "fit")
    if not fits.any():
        return runs
    _warn(
        "runs that only evaluate are left out, give them alone to see them: {}",
        list(runs["run"][~fits]),
    )
    return runs[fits]


def warn_of_cells(cells: Iterable[DataFrame], names: Sequence[str]) -> None:
    """Warn where means of metrics are not over seeds, each once, of whole runs."""
    mixed, twice, partial, empty, versions = set(), set(), [], [], set()
    for group in cells:
        versions.update(several(group.get("versions", [])))
        differ = [name for name in _differing(group) if name != SEED]
        mixed.update(differ)
        seeds = list(map(cell, group.get(SEED, [None] * len(group))))
        if not differ:
            twice.update(seed for seed in seeds if seeds.count(seed) > 1)
        valued = group[list(names)].notna().any(axis=1)
        partial += _endings(group[valued & (group["status"] != "finished")])
        empty += _endings(group[~valued])
    _warn(
        "means are over runs that differ in more than the seed: {}; make these rows or"
        " columns, or give fewer runs",
        sorted(mixed),
    )
    _warn("means are over runs of other code or packages: {}", sorted(versions))
    _warn("the same seed counts more than once: {}", sorted(twice, key=rank))
    _warn("runs that did not finish count with what they have: {}", partial)
    _warn(LEFT_OUT, empty)


def several(versions: Iterable[str]) -> list[str]:
    """Return the versions of which runs have more than one of a kind.

    Args:
        versions: of `Run.versions`: "a1b2c3d4, torch 2.9", of one run or of many.
    """
    parts = {part for text in versions for part in text.split(", ") if part}
    kinds = Counter(part.rpartition(" ")[0] for part in parts)
    return sorted(part for part in parts if kinds[part.rpartition(" ")[0]] > 1)


def _warn(sentence: str, names: Sequence[str]) -> None:
    """Warn of names, if there are any, in a sentence that has {} for them."""
    if names:
        more = f" and {len(names) - MOST} others" * (len(names) > MOST)
        warnings.warn(sentence.format(", ".join(names[:MOST]) + more), stacklevel=4)


def _endings(runs: DataFrame) -> list[str]:
    """Return the runs, each with how it ended: "a (diverged)"."""
    return list(runs["run"] + " (" + runs["status"] + ")")


def require_runs(runs: DataFrame) -> None:
    """Refuse a frame without runs."""
    if not len(runs):
        raise ConfigError(
            "no run was found; give run folders, <log.folder>/runs/<experiment>/<run>,"
            " or a folder that holds some"
        )


def require_metrics(names: Sequence[str], runs: DataFrame) -> None:
    """Refuse metrics that no run has; those there are are offered."""
    known = metrics(runs)
    if names and not known:
        raise ConfigError(_why_none(runs))
    _require(names, known, "metric", f"there are: {', '.join(known)}")


def require_keys(names: Iterable[str], runs: DataFrame) -> None:
    """Refuse keys that no run has; those that differ are offered."""
    differ = ", ".join(_differing(runs)) or "none"
    _require(names, keys(runs), "key", f"that differ: {differ}")


def _require(names: Iterable[str], known: Sequence[str], kind: str, hint: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{name} is no {kind} of these runs{nearest(name, known)} ({hint})"
            )
