"""Each figure of an evaluation with its protocol, in words beside it."""

from __future__ import annotations

from collections.abc import Mapping

from stable_ssl.loggers.names import Metric, as_text
from stable_ssl.loggers.table import Table


def protocol_table(
    values: Mapping[str, float], metrics: Mapping[str, Metric], title: str
) -> Table:
    """Return a table of an evaluation.

    Args:
        values: {"<split>/<metric>": value} of one split.
        metrics: what is stated of them, by name; nothing of what a hook logs.
        title: epoch, step and seed in words.
    """
    rows = []
    for name, value in values.items():
        metric = metrics.get(name.rpartition("/")[2])
        rows.append((name, as_text(name, value), metric.protocol if metric else ""))
    return Table(title, ("figure", "value", "protocol"), rows)
