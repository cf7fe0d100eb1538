"""The command line as it is recorded: without the values of secrets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from stable_ssl.secrets import MASK, is_secret, without_passwords

NAME = re.compile(r"""([\w-]+)['"]?\s*[:=]\s*""")  # of a nested {name: value}
PIECE = re.compile(r"""\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|.)""", re.DOTALL)
DEEPER = {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """Return arguments, e.g. overrides, with the values of secrets masked.

    What is a secret is told by its name, as in a config: `++log.api_key=abc`,
    `++log={api_key: abc}`, `--token=abc`, `--token abc`; or it is in a URL.
    """
    masked = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, sign, value = argument.partition("=")
        flag = before if before.startswith("-") and "=" not in before else ""
        if _is_secret(flag, argument):
            masked.append(MASK)
        elif sign and _is_secret(name, value):
            masked.append(f"{name}={MASK}")
        else:
            masked.append(without_passwords(_masked_within(argument)))
    return masked


def _masked_within(text: str) -> str:
    """Return "{api_key: ***, project: mine}"."""
    pieces, end = [], 0
    for name in NAME.finditer(text):
        if name.start() < end:
            continue
        value_end = _end_of_value(text, name.end())
        if _is_secret(name[1], text[name.end() : value_end]):
            pieces += [text[end : name.end()], MASK]
            end = value_end
    return "".join([*pieces, text[end:]])


def _end_of_value(text: str, start: int) -> int:
    """Return where a value ends: before the comma or the bracket that closes it."""
    depth, at = 0, start
    while piece := PIECE.match(text, at):
        depth += DEEPER.get(piece[1], 0)
        if depth < 0 or (depth == 0 and piece[1] == ","):
            break
        at = piece.end()
    return at


def _is_secret(name: str, text: str) -> bool:
    """Return whether a text, one value or a sweep of several, is a secret."""
    last = re.split(r"[.@/]", name)[-1]
    values = [_read(text)]
    if isinstance(values[0], str):
        values = [_read(part) for part in text.split(",")]
    return is_secret(last, values)


def _read(text: str) -> Any:
    """Return what YAML makes of a text, the text itself where it is no YAML."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # of an impossible date
        return text
