"""Datasets of other libraries that divide themselves among ranks, which are refused.

They are known by the names of their classes, so that none is imported.
"""

from __future__ import annotations

from stable_ssl.schema import ConfigError

BY_NUMBER = (
    "hold a litdata.StreamingDataset in a map-style Dataset of your own, whose"
    " __getitem__ returns its sample of that number"
)
REMEDIES = {  # by package and class
    ("litdata", "StreamingDataset"): BY_NUMBER,
    ("litdata", "CombinedStreamingDataset"): BY_NUMBER,
    ("litdata", "ParallelStreamingDataset"): BY_NUMBER,
    ("streaming", "StreamingDataset"): (
        "streaming.LocalDataset reads the same folder by number: {_target_:"
        " streaming.LocalDataset, local: ...}"
    ),
}


def refuse_rank_aware(kind: type) -> None:
    """Refuse a class of datasets whose order is that of its library and of the ranks.

    Raises:
        ConfigError: says why, and what to use instead.
    """
    for cls in kind.__mro__:
        package = cls.__module__.partition(".")[0]
        if remedy := REMEDIES.get((package, cls.__name__)):
            raise ConfigError(
                f"{kind.__name__} is a {package}.{cls.__name__}, which gives each rank"
                " and worker samples of its own in an order of its own: N ranks would"
                f" not train as one, nor a run resume exactly; {remedy}"
            )
