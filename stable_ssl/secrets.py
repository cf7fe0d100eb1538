"""Mask the secrets of a configuration, or of a command line, before it is written.

A secret is what the name of its key says is one (`is_secret`), what an interpolation
takes from a variable of the environment of such a name, and the password within a URL,
wherever they end up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?(\w+)")
FOLDERS = {"PWD", "OLDPWD"}  # variables of any shell that hold no password
MASK = "***"  # in what is written, where a secret was
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of API_KEY, apiKey, x-api-key
SURE = re.compile(  # the end of a word that says so anywhere: secret_access, db_passwd
    r"(pass(word|wd|phrase|code)|pwd|secret|credential|bearer|authorization"
    r"|(api|access|auth|private|secret)(key|token))s?$"
)
LAST = {"key", "token", "tokens", "auth", "cookie", "cookies"}  # say so as the last one
OF_KEYS = {"api", "access", "auth", "private", "secret", "ssh"}  # say so before `keys`
ORDINARY = set(  # before one of LAST, it is none: num_tokens, mask_token, sort_key
    "num n max min mask cls class pad reg register patch prefix special bos eos sep unk"
    " image text label target sort index foreign primary query".split()
)
PASSWORD = re.compile(r"(?<=://)([^\s/:@'\"]*):[^\s/'\"]+@")  # user:password@ of a URL


def is_secret(name: str, value: Any) -> bool:
    """Return whether a value is a secret, by the name of its key: api_key, tokens, pwd.

    Null, true, false and an empty text are none. Nor is a number under a plural, which
    is a count, or under a name that goes on: password_length. Of a list or a mapping
    one member is enough.
    """
    words = ["", "", "", *(word.lower() for word in WORD.findall(name))]
    two_before, before, last = words[-3:]
    at_end = (
        SURE.search(last) is not None
        or (last in LAST and before not in ORDINARY)
        or (last == "keys" and before in OF_KEYS)
        or (two_before, before, last) == ("access", "key", "id")
    )
    if not at_end and not any(map(SURE.search, words)):
        return False
    return _may_be_secret(value, numbers=at_end and not last.endswith("s"))


def _may_be_secret(value: Any, numbers: bool) -> bool:
    """Return whether a value is a text, or a number where those are secrets too."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(_may_be_secret(member, numbers) for member in value)
    if isinstance(value, (int, float)):
        return numbers and not isinstance(value, bool)
    return bool(value)


def without_passwords(text: str) -> str:
    """Return a text with the passwords within its URLs masked."""
    return PASSWORD.sub(rf"\1:{MASK}@", text)


def to_yaml(config: DictConfig) -> str:
    """Return the resolved config as YAML with the values of secrets masked."""
    return OmegaConf.to_yaml(OmegaConf.create(masked(config)))


def masked(config: DictConfig) -> dict[str, Any]:
    """Return the resolved config as a plain dict with the values of secrets masked."""
    variables = set(ENVIRONMENT.findall(str(OmegaConf.to_container(config)))) - FOLDERS
    values = {os.environ.get(name) for name in variables if is_secret(name, "text")}
    secrets = sorted(filter(None, values), key=len, reverse=True)

    def mask(value: Any, name: str = "") -> Any:
        if is_secret(name, value):
            return MASK
        if isinstance(value, dict):
            return {k: mask(v, str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [mask(v) for v in value]
        for secret in secrets:
            if str(value) == secret:  # a number, too
                return MASK
            if isinstance(value, str):
                value = value.replace(secret, MASK)
        return without_passwords(value) if isinstance(value, str) else value

    return mask(OmegaConf.to_container(config, resolve=True))


def masked_keys(config: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Yield the dotted keys of a plain config in whose values a secret is masked.

    A list is named as a whole.
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from masked_keys(value, f"{at}{name}.")
        elif isinstance(value, list):
            if any(masked_keys({str(i): member for i, member in enumerate(value)})):
                yield f"{at}{name}"
        elif value == MASK and is_secret(str(name), MASK):
            yield f"{at}{name}"
        elif isinstance(value, str) and f":{MASK}@" in value:
            yield f"{at}{name}"
