"""What of an evaluation is not as in the training whose weights it sees.

Figures of one name in one folder are of one protocol: a training that goes on keeps
what it validates by, and an evaluation that asks otherwise writes its figures apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from stable_ssl.checkpoint import State, differences
from stable_ssl.data.nodes import READING, SPLITS
from stable_ssl.evaluation.suite import CADENCE
from stable_ssl.loggers.jsonl import read_rows
from stable_ssl.schema import ConfigError

FIRST_WEIGHTS = {"pretrained", "weights"}  # of a backbone, which a checkpoint replaces
MONITORS = ("monitor", "monitor_mode")
EARLY = ("monitor", "mode")  # of `log.early_stopping`
Difference = tuple[str, Any, Any]  # a key, what it was and what it is


def protocols(
    then: State, now: State, splits: Collection[str] = SPLITS
) -> Iterator[Difference]:
    """Yield the keys by which figures of one name would be of different things.

    Evaluators and metrics that one config alone asks for have names of their own, and
    those that wait for an evaluation alone gave a training no figures.

    Args:
        then: config of the training.
        now: config of today.
        splits: whose data are compared.
    """
    for name in (*splits, *READING, "bank_size"):
        if name in then["data"] and name in now["data"]:  # one may be older than a key
            yield from _both(f"data.{name}", then["data"][name], now["data"][name])
    asked, fitted = then["log"]["eval"], then.get("mode", "fit") == "fit"
    waiting = [
        name
        for name, node in asked.items()
        if fitted and isinstance(node, dict) and node.get("in_fit") is False
    ]
    asked = {name: node for name, node in asked.items() if name not in waiting}
    yield from _both("log.eval", asked, now["log"]["eval"])
    yield from _both("log.metrics", *(c["log"].get("metrics") for c in (then, now)))


def _both(path: str, then: Any, now: Any) -> Iterator[Difference]:
    """Yield the differences of two nodes, or of those of the names that both have."""
    if path.startswith("data."):
        yield from differences(path, then, now)
        return
    for name in (then or {}).keys() & (now or {}).keys():
        nodes = then[name], now[name]
        if all(isinstance(node, dict) for node in nodes):
            old, new = ({k: n[k] for k in n if k not in CADENCE} for n in nodes)
            yield from differences(f"{path}.{name}", old, new)


def network(then: State, now: State) -> Iterator[Difference]:
    """Yield the keys by which the same weights would be another network."""
    backbones = []
    for config in (then, now):
        node = (config.get("model") or {}).get("backbone") or {}
        node = {"name": node} if isinstance(node, str) else node
        backbones.append({k: v for k, v in node.items() if k not in FIRST_WEIGHTS})
    yield from differences("model.backbone", *backbones)
    precisions = [c.get("hardware", {}).get("precision") for c in (then, now)]
    yield from differences("hardware.precision", *precisions)


def otherwise(then: State, now: State) -> str | None:
    """Say which keys of data, network and protocols are not those of the training."""
    found = sorted(path for path, *_ in (*network(then, now), *protocols(then, now)))
    if not found:
        return None
    return f"evaluated otherwise than the run was: {', '.join(found)}"


def watched(then: State, now: State) -> Iterator[Difference]:
    """Yield what a validation is judged by and what it measures, where they differ."""
    logs = then["log"], now["log"]
    early = [log.get("early_stopping") or {} for log in logs]
    for path, names, nodes in (
        ("log", MONITORS, logs),
        ("log.early_stopping", EARLY, early),
    ):
        for name in names:
            values = [node.get(name) for node in nodes]
            if None not in values:
                yield from differences(f"{path}.{name}", *values)
    if then["data"].get("val") and now["data"].get("val"):
        yield from protocols(then, now, ("val",))


def refuse_other_figures(then: State, now: State) -> None:
    """Refuse to go on in a folder whose figures so far are of another kind.

    Raises:
        ConfigError: names the first key of `watched`.
    """
    for path, old, new in watched(then, now):
        raise ConfigError(
            f"the figures of this run so far, and its best checkpoint, are by"
            f" {path}={old}, not {new}; keep the old value, or go on in another"
            " log.run, with log.resume=<checkpoint of this one>"
        )


def apart(folder: Path, now: State, step: int) -> dict[str, Any] | None:
    """Return what tells an evaluation in the folder of a run from the run's figures.

    Args:
        folder: of the run.
        now: config of the evaluation.
        step: of the weights.

    Returns:
        {mode, checkpoint, otherwise: keys}, the checkpoint being null where it is the
        run's newest; None where nothing tells them apart.
    """
    from omegaconf import OmegaConf

    if not (folder / "config.yaml").exists():
        return None
    then = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    log = now["log"]
    path = log["load_from"] or (log["resume"] if log["resume"] != "auto" else None)
    if then.get("mode", "fit") == "fit":
        last = max((row["step"] for row in read_rows(folder)), default=step)
        own = path is None or Path(path).resolve().is_relative_to(folder.resolve())
        path = None if own and step >= last else str(path)
    elif path == then["log"].get("load_from"):
        path = None
    keys = sorted(key for key, *_ in (*network(then, now), *protocols(then, now)))
    if path is None and not keys:
        return None
    return {"mode": now["mode"], "checkpoint": path, "otherwise": keys}
