"""What of an evaluation is not as in the training whose weights it sees.

Figures of one name in one folder are of one protocol: a training that goes on keeps
what it validates by, and an evaluation that asks otherwise writes its figures apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_ssl.checkpoint import State, differences
from stable_ssl.data.nodes import EVALUATED, READING
from stable_ssl.evaluation.suite import CADENCE
from stable_ssl.schema import ConfigError

FIRST_WEIGHTS = {"pretrained", "weights"}  # of a backbone, which a checkpoint replaces
OF_BATCHES = {"batch_size", "shuffle", "drop_last", "in_order"}  # keys of a loader node
MONITORS = ("monitor", "monitor_mode")
EARLY = ("monitor", "mode")  # of `log.early_stopping`
Difference = tuple[str, Any, Any]  # a key, what it was and what it is


def protocols(then: State, now: State, splits: Sequence[str]) -> Iterator[Difference]:
    """Yield the keys by which figures of one name would be of different things.

    Splits, evaluators and metrics that one config alone asks for have names of their
    own, and those that wait for an evaluation alone gave a training no figures.

    Args:
        then: config of the training, complete.
        now: config of today.
        splits: whose data are compared.
    """
    for split in splits:
        old, new = (_parts(split, config["data"].get(split)) for config in (then, now))
        yield from _of_both("data", old, new)
    banks = [config["data"].get("bank") for config in (then, now)]
    if "bank" in splits and bool(banks[0]) != bool(banks[1]):  # otherwise of train
        yield "data.bank", *banks
    for name in (*READING, "bank_size"):
        values = then["data"].get(name), now["data"].get(name)
        yield from differences(f"data.{name}", *values)
    fitted = then.get("mode", "fit") == "fit"
    asked = {
        name: node
        for name, node in then["log"]["eval"].items()
        if not (fitted and isinstance(node, Mapping) and node.get("in_fit") is False)
    }
    yield from _of_both("log.eval", asked, now["log"]["eval"])
    own = (config["log"].get("metrics") or {} for config in (then, now))
    yield from _of_both("log.metrics", *own)


def _parts(split: str, node: Any) -> State:
    """Return the loader nodes of a split by their keys, less what makes its batches.

    Of train only images and labels are evaluated, without its views.
    """
    node = node or {}
    named = {split: node} if "dataset" in node else {}
    named = named or {f"{split}.{name}": part for name, part in node.items()}
    parts = {}
    for name, part in named.items():
        if part is not None:
            parts[name] = {k: v for k, v in part.items() if k not in OF_BATCHES}
            if split == "train":
                dataset = {**part["dataset"]}
                dataset.pop("image_transform", None)
                parts[name] = {"dataset": dataset}
    return parts


def _of_both(path: str, then: State, now: State) -> Iterator[Difference]:
    """Yield the differences of nodes whose names are in both."""
    for name in sorted(then.keys() & now.keys()):
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
    precisions = (config["hardware"].get("precision") for config in (then, now))
    yield from differences("hardware.precision", *precisions)


def otherwise(then: State, now: State) -> list[str]:
    """Return the keys by which an evaluation sees otherwise than a training did.

    Args:
        then: config of the training, complete.
        now: config of the evaluation.
    """
    found = [*network(then, now)]
    if split := EVALUATED.get(now["mode"]):
        found += protocols(then, now, (split, "train", "bank"))
        drawn = (config["hardware"]["seed"] for config in (then, now))
        found += differences("hardware.seed", *drawn)  # few labels, a bank's images
    return sorted(path for path, *_ in found)


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
    yield from protocols(then, now, ("val", "bank"))


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


def apart(
    folder: Path,
    now: State,
    weights: str | None,
    settle: Callable[[State], State],
) -> State | None:
    """Return what tells an evaluation in the folder of a run from the run's figures.

    Args:
        folder: of the run.
        now: config of the evaluation.
        weights: whose they are; None of the run's newest.
        settle: returns a config with the defaults of the keys that it lacks.

    Returns:
        {mode, checkpoint: `weights`, otherwise: keys}; None where nothing tells them
        apart, or there is no run.
    """
    from omegaconf import OmegaConf

    path = folder / "config.yaml"
    if now["mode"] not in EVALUATED or not path.exists():
        return None
    then = settle(OmegaConf.to_container(OmegaConf.load(path)))
    if then.get("mode", "fit") != "fit":  # an evaluation's: the same weights as it saw
        source = ("load_from", "resume")
        same = all(then["log"].get(key) == now["log"].get(key) for key in source)
        weights = None if same else weights
    keys = otherwise(then, now)
    if weights is None and not keys:
        return None
    return {"mode": now["mode"], "checkpoint": weights, "otherwise": keys}
