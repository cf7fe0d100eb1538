"""Mask the secrets of a configuration before it is written."""

from __future__ import annotations

import os
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?(\w+)")
MASK = "***"  # in what is written, where a secret was
SECRET = re.compile(r"(^|_)(key|token|secret|password|credentials?)$", re.IGNORECASE)


def to_yaml(config: DictConfig) -> str:
    """Return the resolved config as YAML with the values of secret keys masked."""
    return OmegaConf.to_yaml(OmegaConf.create(masked(config)))


def masked(config: DictConfig) -> dict[str, Any]:
    """Return the resolved config as a plain dict with the values of secrets masked.

    A secret is the value of a key whose name says so, and what an interpolation takes
    from a variable of the environment whose name says so, wherever it ends up.
    """
    variables = ENVIRONMENT.findall(str(OmegaConf.to_container(config)))
    values = {os.environ.get(name) for name in variables if SECRET.search(name)}
    secrets = sorted(filter(None, values), key=len, reverse=True)

    def mask(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {k: mask(v, str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [mask(v) for v in value]
        if value and SECRET.search(name):
            return MASK
        for secret in secrets:
            if str(value) == secret:  # a number, too
                return MASK
            if isinstance(value, str):
                value = value.replace(secret, MASK)
        return value

    return mask(OmegaConf.to_container(config, resolve=True))
