"""Where a process runs: its device, its rank among the processes of a run."""

from __future__ import annotations

import os
from typing import Any

import torch

from stable_ssl.config import ConfigError


def rank() -> int:
    """Return this process's number among the run's processes; 0 alone."""
    return 0


def world_size() -> int:
    """Return the number of processes of the run.

    Raises:
        ConfigError: several were started; a run is one process in this version.
    """
    found = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))
    if found > 1:
        raise ConfigError(
            f"{found} processes were started (WORLD_SIZE or SLURM_NTASKS), and a run is"
            " one process in this version; start one: hydra.launcher.tasks_per_node=1"
        )
    return found


def choose_device(hardware: Any) -> torch.device:
    """Return the device that the group `hardware` asks for.

    Raises:
        ConfigError: it asks for more than the machine has.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    ids = gpu_ids(hardware.gpus, found)
    if hardware.accelerator == "cpu" or (ids == [] and hardware.gpus is not None):
        return torch.device("cpu")
    if hardware.accelerator == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("hardware.accelerator=mps, but this machine has no MPS")
        return torch.device("mps")
    if hardware.accelerator == "gpu" and not found:
        raise ConfigError(
            "hardware.accelerator=gpu, but torch sees no GPU; use auto or cpu"
        )
    if not found:
        return torch.device("cpu")
    return torch.device("cuda", ids[0] if ids else 0)


def gpu_ids(gpus: int | str | list | None, found: int) -> list[int]:
    """Read `hardware.gpus`: a count, a list or "0,1" of ids, -1 for all, 0 for none.

    Raises:
        ConfigError: not one of these forms, or ids that the machine does not have.
    """
    if gpus is None:
        return list(range(min(found, 1)))
    try:
        if isinstance(gpus, str) and "," in gpus:
            ids = [int(part) for part in gpus.split(",") if part.strip()]
        elif isinstance(gpus, (int, str)):
            count = int(gpus)
            if count < -1:
                raise ValueError
            ids = list(range(found if count == -1 else count))
        else:
            ids = [int(part) for part in gpus]
    except (TypeError, ValueError):
        raise ConfigError(
            f"hardware.gpus={gpus} is neither a count, a list of ids, '0,1', -1 nor 0"
        ) from None
    if missing := [i for i in ids if not 0 <= i < found]:
        raise ConfigError(
            f"hardware.gpus={gpus} asks for GPU {missing[-1]}, but torch sees {found}"
            f" GPU{'s' * (found != 1)}; use hardware.gpus=0 for the CPU"
        )
    if len(ids) > 1:
        raise ConfigError(
            f"hardware.gpus={gpus} asks for {len(ids)} GPUs; a run is one process on"
            " one GPU in this version"
        )
    return ids
