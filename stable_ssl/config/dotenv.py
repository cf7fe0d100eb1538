"""The file `.env` of the working folder: what differs between machines, and secrets."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path


def read_env(path: str | Path = ".env") -> None:
    """Add the variables of a file to the environment, where they are not set yet.

    Lines are those of python-dotenv, less its interpolation: `NAME=value`,
    `export NAME="value"`, comments. An empty value sets nothing, and `~/` is the home
    folder, unless in quotes.

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
    from dotenv.parser import parse_stream

    for binding in parse_stream(io.StringIO(text)):
        name, value = binding.key, binding.value
        line = binding.original.string
        if binding.error or (name and value is None):
            blank = len(line) - len(line.lstrip("\n"))
            number = binding.original.line + blank
            raise ValueError(f"{path}, line {number}: expected NAME=value")
        if value == "???" and name not in os.environ:
            raise ValueError(f"{path}: {name}=??? is not filled in; give it a value")
        if value and value != "???":
            quoted = re.match(r"[^=]*=\s*[\"']", line)
            os.environ.setdefault(name, value if quoted else os.path.expanduser(value))
