"""The JSON of a paper's table: what each run came to, kept where its folder is gone.

`runs` are those of the table. Whoever writes it anew loses none of what it held:
`earlier` are the runs that the table has no more, or not now, and of others the values
of columns that it has no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_ssl.schema import ConfigError
from stable_ssl.tools.paper_results import ENDED, Planned, Result

Entry = Mapping[str, Any]  # a run, of `entry_of`


def entry_of(one: Planned, result: Result) -> Entry:
    """Return a run as plain types."""
    return {
        "method": one.row,
        "data": one.data,
        "seed": one.seed,
        "run": one.folder.name,
        "status": result.status,
        "config": one.config,
        "code": result.code,
        "own": result.own,
        "checkpoint": result.checkpoint,
        "versions": result.versions,
        "modules": result.modules,
        "values": result.values,
    }


def stored(file: Path) -> list[Entry]:
    """Return the runs of a table's JSON that ended; none where there is no file.

    Raises:
        ConfigError: there is no table in it.
    """
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        entries = [*table["runs"], *table.get("earlier", [])]
        return [entry for entry in entries if _result(entry).status in ENDED]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        text = f"{file} holds no table of this version of stable-ssl paper"
        raise ConfigError(f"{text}; move it away, or give another --out") from error


def _result(entry: Entry) -> Result:
    library = (entry["code"] or "").replace("+", ", ")
    return Result(
        str(entry["status"]),
        entry["code"],
        entry["own"],
        entry["checkpoint"],
        dict(entry["modules"]),
        dict(entry["values"]),
        str(entry.get("versions", library)),  # which was all that was kept
    )


def by_name(entries: Iterable[Entry]) -> dict[str, Result]:
    """Return what runs came to, by name; the first of those of one name counts.

    Values that others have are added, if they are of the same code and checkpoint.
    """
    found: dict[str, Result] = {}
    for entry in entries:
        result = _result(entry)
        first = found.setdefault(str(entry["run"]), result)
        same = (first.code, first.own, first.checkpoint)
        if same == (result.code, result.own, result.checkpoint):
            values = {**result.values, **first.values}
            found[str(entry["run"])] = replace(first, values=values)
    return found


def earlier(before: Iterable[Entry], now: Iterable[Entry]) -> list[Entry]:
    """Return the runs of before that did not end by now, or have further values."""
    values = {
        entry["run"]: entry["values"] for entry in now if entry["status"] in ENDED
    }
    kept = []
    for entry in before:
        there = values.get(entry["run"], {})
        left = {k: v for k, v in entry["values"].items() if there.get(k) is None}
        if entry["run"] not in values:
            kept.append(entry)
        elif any(value is not None for value in left.values()):
            kept.append({**entry, "values": left})
    return kept
