"""Numbers that a config may name before they are known: ${stable_ssl:max_iterations}.

They stand in `optim`, `model` and groups of the user's own, but for the keys that they
follow from (`EARLY`), and are known once the loaders are built, when each is replaced
by its value: the config that is written needs none of them, and no run sees those of
another in the same process.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any

from omegaconf import OmegaConf

NAMES = (
    "iterations_per_epoch",  # optimizer steps of an epoch; null unless mode=fit
    "max_iterations",  # optimizer steps of the training; null unless mode=fit
    "num_gpus",  # over all machines; 0 on the CPU
    "num_nodes",  # machines
)
VALUE = re.compile(r"\$\{\s*stable_ssl\s*:\s*(\w*)\s*\}")
EARLY = ("data", "hardware", "log", "mode", "fast_dev_run", "model.backbone")
EARLY += ("optim.epochs", "optim.steps", "optim.steps_per_epoch", "optim.accumulate")
_standing_in = ContextVar("standing_in", default=False)


def check(config: Mapping[str, Any]) -> None:
    """Refuse names that there are not, and those in what the values follow from.

    Args:
        config: a plain mapping, nothing of it resolved.

    Raises:
        ValueError: in words.
    """
    for path, text in _texts(config):
        for name in VALUE.findall(text):
            if name not in NAMES:
                close = get_close_matches(name, NAMES, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise ValueError(
                    f"{path}={text}: there is no stable_ssl:{name}{hint}"
                    f" (there are: {', '.join(NAMES)})"
                )
            if any(path == key or path.startswith(f"{key}.") for key in EARLY):
                raise ValueError(
                    f"{path}={text} is known only when the data are there, and is"
                    " needed before; give a number (other keys of optim, model and"
                    " groups of your own may use it)"
                )


def asked(config: Any) -> bool:
    """Return whether a config names one of them."""
    texts = _texts(OmegaConf.to_container(config))
    return any(VALUE.search(text) for _, text in texts)


def filled(config: Any, values: Mapping[str, int | None]) -> dict[str, Any]:
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
        return VALUE.sub(lambda found: str(values[found[1]]), value)

    plain = OmegaConf.to_container(config)
    if values["max_iterations"] is None:
        texts = list(_texts({"optim": plain["optim"]}))
        named = {p.split(".")[1] for p, text in texts if VALUE.search(text)}
        plain["optim"] = {k: v for k, v in plain["optim"].items() if k not in named}
    return fill(plain)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let each be 1, while a config is checked before they are known."""
    token = _standing_in.set(True)
    try:
        yield
    finally:
        _standing_in.reset(token)


def _stand_in(name: str) -> int:
    if not _standing_in.get():
        raise ValueError(f"stable_ssl:{name} is known only when the data are there")
    return 1


with warnings.catch_warnings():  # OmegaConf 2.4 renames it to a name that 2.3 has too
    warnings.filterwarnings("ignore", "register_new_resolver")
    OmegaConf.register_new_resolver("stable_ssl", _stand_in, replace=True)


def _texts(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted path, text) of every text in nested mappings and lists."""
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield from _texts(child, f"{at}.{name}" if at else str(name))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from _texts(child, f"{at}.{number}")
    elif isinstance(value, str):
        yield at, value
