"""The file `.env` of the working folder: what differs between machines, and secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)")


def read_env(path: str | Path = ".env") -> None:
    """Add the variables of a file to the environment, where they are not set yet.

    A line is `NAME=value`, `export NAME="value"`, a comment (#) or empty; an empty
    value sets nothing. `~/` is the home folder, unless in quotes.

    Args:
        path: a missing file has no variables.

    Raises:
        ValueError: a line is none of these, or a value is still the `???` of the
            template and the environment does not have it either. It quotes no value.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{path}, line {number}: expected NAME=value")
        name, value = match[1], _unquoted(match[2])
        if value == "???" and name not in os.environ:
            raise ValueError(f"{path}: {name}=??? is not filled in; give it a value")
        if value and value != "???":
            os.environ.setdefault(name, value)


def _unquoted(value: str) -> str:
    """Return a value as a shell would read it, without the comment after it."""
    if quoted := re.fullmatch(r"""(["'])(.*)\1(?:\s+#.*)?""", value):
        return quoted[2]
    return os.path.expanduser(re.split(r"(?:^|\s+)#", value)[0].strip())
