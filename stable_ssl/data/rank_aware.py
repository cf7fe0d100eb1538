"""Datasets and samplers that divide themselves among ranks, which are refused.

Datasets are known by the names of their classes, so that none is imported; samplers by
what torch's `DistributedSampler` is told, the ranks and the one among them.
"""

from __future__ import annotations

from typing import Any

from stable_ssl.instantiate import accepted_by
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


def refuse_rank_aware_sampler(sampler: Any) -> None:
    """Refuse a sampler that gives each rank a share; a loader would share that again.

    Args:
        sampler: one that is built, or the class or function that builds it.

    Raises:
        ConfigError: says why, and what to use instead.
    """
    built = not callable(sampler)
    kind = type(sampler) if built else sampler
    classes = getattr(kind, "__mro__", [kind])  # a subclass may pass on its **kwargs
    known = {name for cls in classes for name in accepted_by(cls)}
    known |= set(dir(sampler)) if built else set()
    if {"num_replicas", "rank"} <= known:
        raise ConfigError(
            f"the sampler of a loader node, {getattr(kind, '__name__', kind)}, gives"
            " each process a share of the samples, and the loader itself shares every"
            " batch out over the processes, so that some would never be seen; set"
            " shuffle: true instead, or name a sampler of all samples"
        )
