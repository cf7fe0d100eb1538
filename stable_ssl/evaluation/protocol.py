"""Which protocol a figure's name stands for, in words beside the figure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stable_ssl.loggers.names import as_text
from stable_ssl.loggers.table import Table

WORDS = {
    "acc1": "{predictor}, top 1",
    "acc5": "{predictor}, top 5",
    "ap": "{predictor}, average precision",
    "auroc": "{predictor}, area under the ROC curve",
    "map": "{predictor}, average precision, mean over classes",
    "knn_acc1": "kNN, k={k}, temperature {temperature:g}, on {bank}",
    "linear_acc1": "linear, SGD, {epochs} epochs on {bank}",
    "linear_lr": "learning rate of it, best of {lrs} on {held_out:.0%} of the bank",
    "logistic_acc1": "logistic regression, C=1, on {bank}",
    "rankme": "effective rank of the features",
    "alpha_req": "exponent of their spectrum",
    "feature_std": "spread on the sphere, 1 isotropic, 0 collapsed",
    "uniformity": "on the sphere, t=2; 0 is collapse",
    "alignment": "squared distance of the first two views",
    "lidar": "effective rank of what tells images apart",
    "loss": "the method's",
    "skipped": "images that could not be read",
}
FEW = "logistic regression, {share} of {bank}, mean of 5 draws"


def protocol_table(
    found: Mapping[str, float], log: Any, where: str, bank: int, probed: bool
) -> Table:
    """Return a table of an evaluation: each figure with its protocol.

    Args:
        found: {"<split>/<metric>": value} of one split.
        log: group `log`: eval and metrics are read.
        where: epoch, step and seed in words, the table's title.
        bank: images of the bank.
        probed: whether predictions are the online probe's.
    """
    rows = [
        (name, as_text(name, value), protocol(name, log, bank, probed))
        for name, value in found.items()
    ]
    return Table(where, ("figure", "value", "protocol"), rows)


def protocol(name: str, log: Any, bank: int, probed: bool) -> str:
    """Return how a metric is measured, or nothing of one that a hook logs.

    Args are those of `protocol_table`, name being "<split>/<metric>".
    """
    metric = name.rpartition("/")[2]
    if metric in log.metrics:
        return str(log.metrics[metric]["callable"])
    facts: dict[str, Any] = {
        "bank": f"the bank of {bank:,} plain images",
        "predictor": "online linear probe" if probed else "the model's prediction",
    }
    for group in (log.eval.knn, log.eval.offline):
        facts |= vars(group) if group is not None else {}
    if few := re.fullmatch(r"few([\d.]+)(pct)?_acc1", metric):
        share = f"{few[1]} %" if few[2] else f"{few[1]} labels a class"
        return FEW.format(share=share, **facts)
    facts["lrs"] = len(facts.get("lrs", ()))
    top5 = metric.endswith("_acc5")
    words = WORDS.get(metric.replace("_acc5", "_acc1"), "").format_map(facts)
    return f"{words}, top 5" if top5 and words else words
