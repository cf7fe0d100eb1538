"""The group `hardware` of a configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stable_ssl.schema import ConfigError, key


@dataclass
class Hardware:
    """Where it is trained."""

    seed: int = key(0, low=0, high=2**63 - 1)  # of weights, views and order
    accelerator: str = key("auto", choices=("auto", "cpu", "gpu", "mps"))  # its kind
    gpus: Any = None  # count, ids (list, "0,1"), -1: all, 0: CPU; null: one if any
    processes: int | None = key(None, low=1)  # on the CPU of this machine; null: 1
    num_nodes: int = key(1, low=1)  # machines, which Slurm or torchrun must start
    # seconds that a rank may keep the others waiting in training, 3 times as long for
    # the first step; null: no limit
    timeout: float | None = key(100, above=0)
    sharding: str = key("none", choices=("none", "full"))  # full: FSDP2, by block
    sync_batchnorm: bool = True  # batch statistics of all processes, as of one
    threads: int | None = key(  # of a process's CPU; null: by the size of the batches
        None, low=1
    )
    # of activations; weights and optimizers stay float32
    precision: str = key("float32", choices=("float32", "bfloat16", "float16"))
    channels_last: bool = True  # memory format of images and convolutions; faster
    compile: bool = False  # torch.compile the loss
    deterministic: bool = False  # torch.use_deterministic_algorithms
    detect_anomaly: bool = False  # find what makes a gradient NaN; slow

    def __post_init__(self) -> None:
        """Refuse what contradicts another key, and gpus of no count and no ids."""
        if self.sharding == "full" and (self.compile or self.precision == "float16"):
            other = "compile=true" if self.compile else "precision=float16"
            instead = "compile=false" if self.compile else "precision=bfloat16"
            raise ConfigError(
                f"hardware.sharding=full does not go with hardware.{other}; set"
                f" hardware.{instead}, or sharding to none"
            )
        if self.gpus is None:
            return
        on_cpu = named_ids(self.gpus) == []
        if self.accelerator != "auto" and on_cpu == (self.accelerator == "gpu"):
            raise ConfigError(
                f"hardware.gpus={self.gpus} contradicts"
                f" hardware.accelerator={self.accelerator};"
                " set gpus to null, or accelerator to auto"
            )


def named_ids(gpus: int | str | Sequence[int]) -> list[int] | None:
    """Return the ids that `hardware.gpus` names, whatever the machine; None for all.

    Raises:
        ConfigError: it is of no form that `gpu_ids` reads.
    """
    if isinstance(gpus, Sequence) and not isinstance(gpus, str):
        if all(type(i) is int and i >= 0 for i in gpus):
            return list(gpus)
    elif re.fullmatch(r"-1|\d{1,4}|(\d+,)+\d*", text := str(gpus)):  # of one machine
        if "," in text:
            return [int(part) for part in text.split(",") if part]
        return None if text == "-1" else list(range(int(text)))
    raise ConfigError(
        f"hardware.gpus={gpus} is neither a count, a list of ids, '0,1', -1 (all) nor 0"
        " (the CPU)"
    )
