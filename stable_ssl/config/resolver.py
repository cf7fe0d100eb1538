"""Numbers that a config may name before they are known: ${stable_ssl:max_iterations}.

They may stand in `optim`, `model` and groups of the user's, except in the keys that
they are computed from (`EARLY`). Each is replaced by its value once the loaders are
built, so that the config that is written holds numbers, and the runs of one process do
not share them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stable_ssl.schema import ConfigError, nearest, texts

NAMES = (
    "iterations_per_epoch",  # optimizer steps of an epoch; null unless mode=fit
    "max_iterations",  # optimizer steps of the training; null unless mode=fit
    "num_gpus",  # over all machines; 0 on the CPU
    "num_nodes",  # machines
)
VALUE = re.compile(r"\$\{\s*stable_ssl\s*:\s*(\w*)\s*\}")
EARLY = (
    "data hardware log mode fast_dev_run model.backbone"
    " optim.epochs optim.steps optim.steps_per_epoch optim.accumulate"
).split()
_standing_in = ContextVar("standing_in", default=False)


def check(config: Mapping[str, Any]) -> None:
    """Refuse unknown names, and names in keys that the values are computed from.

    Args:
        config: a plain mapping, nothing of it resolved.

    Raises:
        ConfigError: names the key and its text.
    """
    for path, text in _asking_texts(config):
        for name in VALUE.findall(text):
            if name not in NAMES:
                raise ConfigError(
                    f"{path}={text}: there is no stable_ssl:{name}"
                    f"{nearest(name, NAMES)} (there are: {', '.join(NAMES)})"
                )
        if f"{path}.".startswith(tuple(f"{early}." for early in EARLY)):
            raise ConfigError(
                f"{path}={text} is known only when the data are there, and is needed"
                " before; give a number (other keys of optim, model and groups of your"
                " own may use it)"
            )


def asked(config: DictConfig) -> bool:
    """Return whether a config names one of them."""
    return any(_asking_texts(OmegaConf.to_container(config)))


def filled(config: DictConfig, values: Mapping[str, int | None]) -> dict[str, Any]:
    """Return a config as a plain mapping, each of `NAMES` replaced by its value.

    Where `max_iterations` is null, nothing is trained, and the keys of `optim` that
    name one of them are left out.
    """

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: fill(v) for k, v in value.items()}
        if isinstance(value, list):
            return [fill(v) for v in value]
        if not isinstance(value, str):
            return value
        if whole := VALUE.fullmatch(value):
            return values[whole[1]]
        return VALUE.sub(lambda match: str(values[match[1]]), value)

    plain = OmegaConf.to_container(config)
    if values["max_iterations"] is None:
        for path, _ in list(_asking_texts(plain["optim"])):
            plain["optim"].pop(path.split(".")[0], None)
    return fill(plain)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Give each of `NAMES` the value 1, to check a config before they are known."""
    token = _standing_in.set(True)
    try:
        yield
    finally:
        _standing_in.reset(token)


def _resolver(name: str) -> int:
    """Return what OmegaConf substitutes for ${stable_ssl:name}."""
    if not _standing_in.get():
        raise ConfigError(f"stable_ssl:{name} is known only when the data are there")
    return 1


with warnings.catch_warnings():  # OmegaConf 2.4 deprecates this name
    warnings.filterwarnings("ignore", "register_new_resolver")
    OmegaConf.register_new_resolver("stable_ssl", _resolver, replace=True)


def _asking_texts(value: Any) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, text) of the texts in nested values that name one of them."""
    return ((path, text) for path, text in texts(value) if VALUE.search(text))
