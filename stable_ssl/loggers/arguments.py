"""The command line as it is recorded: without the values of secrets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stable_ssl.secrets import MASK, SECRET

NAME = re.compile(r"""([\w-]+)['"]?\s*[:=]\s*""")  # of a nested {name: value}
VALUE = re.compile(  # quoted, a list, a dict, or what comes before the next one
    r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\[[^\]]*\]|\{[^}]*\}|[^,}\]]*)"""
)


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """Return arguments, e.g. overrides, with the values of secrets masked.

    What is a secret is told by its name, as in a config: `++log.api_key=abc`,
    `++log={api_key: abc}`, `--token=abc`, `--token abc`.
    """
    masked = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, sign, value = argument.partition("=")
        flag = before if before.startswith("--") and "=" not in before else ""
        if _is_secret(flag):
            masked.append(MASK)
        elif sign and _is_secret(name):
            masked.append(f"{name}={MASK}")
        else:
            masked.append(name + sign + _masked_within(value))
    return masked


def _masked_within(value: str) -> str:
    """Return "{api_key: ***, project: mine}"."""
    pieces, end = [], 0
    for name in NAME.finditer(value):
        if name.start() >= end and _is_secret(name[1]):
            pieces += [value[end : name.end()], MASK]
            end = VALUE.match(value, name.end()).end()
    return "".join([*pieces, value[end:]])


def _is_secret(name: str) -> bool:
    last = re.split(r"[.@/]", name)[-1].lstrip("+~-")
    return SECRET.search(last.replace("-", "_")) is not None
