"""The arguments of ops: fields of their dataclasses that say how a value is read.

    size: Size = sides()
    scale: Pair = interval((0.08, 1.0), low=0, high=1)

A reader below returns the value as its op uses it, or refuses it with a ConfigError.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, field
from functools import partial
from math import inf
from typing import Any

from stable_ssl.schema import ConfigError

Pair = float | Sequence[float]
Size = int | Sequence[int]


def check(ok: bool, found: str, expected: str) -> None:
    """Raise a ConfigError with the wrong value and what is expected, unless ok."""
    if not ok:
        raise ConfigError(f"{found}: {expected}")


def check_channels(name: str, values: Sequence[float], channels: int) -> None:
    """Refuse an op's values that are neither one for all channels nor one a channel."""
    found = f"image_transform: {name}={list(values)} for images of {channels} channels"
    check(len(values) in (1, channels), found, "give one value, or one a channel")


def reader(read: Callable[..., Any]) -> Callable[..., Any]:
    """Make fields, by their default and limits, of `read(name, value, **limits)`."""

    def argument(default: Any = MISSING, **limits: Any) -> Any:
        return field(default=default, metadata={"read": partial(read, **limits)})

    return argument


@reader
def number(name: str, value: float, low: float = 0, high: float = inf) -> float:
    """Read a number within [low, high]."""
    ok = not isinstance(value, Sequence) and low <= value <= high
    check(ok, f"{name}={value}", f"expected a number between {low:g} and {high:g}")
    return value


probability = partial(number, high=1)


@reader
def numbers(name: str, value: Any, words: Sequence[str] = ()) -> Any:
    """Read one number or several, e.g. one a channel, as a tuple; or one of `words`."""
    if isinstance(value, str) and words:
        expected = f"use a number, one a channel, or {' or '.join(words)}"
        check(value in words, f"{name}={value}", expected)
        return value
    return tuple(map(float, value if isinstance(value, Sequence) else (value,)))


@reader
def interval(
    name: str, value: Pair, low: float, high: float = inf, centre: float | None = None
) -> tuple[float, float]:
    """Read a pair within [low, high], or a number that stands for one.

    Around a `centre` it is an amount a, for [max(low, centre - a), centre + a]; else it
    is both ends.
    """
    pair, expected = value, f"use [low, high] with {low:g} <= low <= high <= {high:g}"
    if not isinstance(value, Sequence):
        pair = (value, value)
        if centre is not None:
            pair = max(centre - value, low), centre + value
            expected += ", or an amount that is not negative"
    ok = len(pair) == 2 and low <= pair[0] <= pair[1] <= high
    check(ok, f"{name}={value}", expected)
    return float(pair[0]), float(pair[1])


@reader
def sides(name: str, value: Size, odd: bool = False) -> tuple[int, int]:
    """Read two positive integers, or one for both."""
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    ok = len(pair) == 2 and all(int(s) == s and s > 0 for s in pair)
    ok = ok and not (odd and any(s % 2 == 0 for s in pair))
    kind = "odd positive" if odd else "positive"
    check(ok, f"{name}={value}", f"expected one {kind} integer, or two")
    return int(pair[0]), int(pair[1])


@reader
def choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Read one of some names."""
    check(value in choices, f"{name}={value}", f"use one of {', '.join(choices)}")
    return value
