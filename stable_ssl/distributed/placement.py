"""Where a process stands: its number among the run's processes, and its device."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from stable_ssl.schema import ConfigError, key


@dataclass
class Hardware:
    """Where it is trained."""

    seed: int = key(0, low=0, high=2**63 - 1)
    accelerator: str = key("auto", choices=("auto", "cpu", "gpu", "mps"))
    gpus: Any = None  # count, ids (list, "0,1"), -1: all, 0: CPU; null: what there is
    processes: int | None = key(None, low=1)  # on the CPU of this machine; null: 1
    num_nodes: int = key(1, low=1)  # machines, which Slurm or torchrun must start
    sync_batchnorm: bool = True  # batch statistics of all processes, as of one
    threads: int | None = key(None, low=1)  # of a process's CPU; null: torch's choice
    precision: str = key("float32", choices=("float32", "bfloat16", "float16"))
    channels_last: bool = True
    compile: bool = False  # torch.compile the loss
    deterministic: bool = False  # torch.use_deterministic_algorithms
    detect_anomaly: bool = False  # find what makes a gradient NaN; slow

    def __post_init__(self) -> None:
        """Refuse what is no count and no ids, and GPUs that the accelerator denies."""
        gpus, accelerator = self.gpus, self.accelerator
        if gpus is None:
            return
        if isinstance(gpus, list):
            valid = all(type(i) is int and i >= 0 for i in gpus)
        else:
            valid = re.fullmatch(r"-1|\d+|(\d+,)+\d*", str(gpus))
        if not valid:
            raise ConfigError(
                f"hardware.gpus={gpus} is neither a count, a list of ids, '0,1', -1"
                " (all) nor 0 (the CPU)"
            )
        none = str(gpus) in ("0", "[]")
        if accelerator != "auto" and none == (accelerator == "gpu"):
            raise ConfigError(
                f"hardware.gpus={gpus} contradicts hardware.accelerator={accelerator};"
                " set gpus to null, or accelerator to auto"
            )


@dataclass(frozen=True)
class Place:
    """Which process of a run this is, and where its processes meet."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among those of this machine
    address: str | None = None  # of rank 0
    port: int = 0
    starter: str | None = None  # torchrun, Slurm; None: the process is by itself


def place(environ: Mapping[str, str] = os.environ) -> Place:
    """Read a process's place from the variables of torchrun or of Slurm's srun.

    A batch script or an interactive shell of Slurm is one process, whatever the job's
    number of tasks: only srun sets SLURM_STEP_ID, and numbers the tasks it starts.

    Raises:
        ConfigError: a variable is missing or wrong; it is named with its value.
    """
    if "RANK" in environ:
        return _torchrun_place(environ)
    step = environ.get("SLURM_STEP_ID", "")  # above 0xfffffff0: batch, interactive
    if "SLURM_PROCID" in environ and step.isdecimal() and int(step) < 0xFFFFFFF0:
        return _slurm_place(environ, int(step))
    if environ.get("WORLD_SIZE", "1") != "1":
        _integer(environ, "RANK", 0)
    return Place()


def _torchrun_place(environ: Mapping[str, str]) -> Place:
    world = _integer(environ, "WORLD_SIZE", 1)
    number = _integer(environ, "RANK", 0, world)
    if world == 1:
        return Place(starter="torchrun")
    local = _integer(environ, "LOCAL_RANK", 0, world)
    port = _integer(environ, "MASTER_PORT", 1, 65536)
    address = _given(environ, "MASTER_ADDR")
    return Place(number, world, local, address, port, "torchrun")


def _slurm_place(environ: Mapping[str, str], step: int) -> Place:
    step_has_own = "SLURM_STEP_NUM_TASKS" in environ
    tasks = "SLURM_STEP_NUM_TASKS" if step_has_own else "SLURM_NTASKS"
    world = _integer(environ, tasks, 1)
    number = _integer(environ, "SLURM_PROCID", 0, world)
    if world == 1:
        return Place(starter="Slurm")
    local = _integer(environ, "SLURM_LOCALID", 0, world)
    step_has_own = "SLURM_STEP_NODELIST" in environ
    nodes = "SLURM_STEP_NODELIST" if step_has_own else "SLURM_JOB_NODELIST"
    address = environ.get("MASTER_ADDR") or first_host(_given(environ, nodes))
    if "MASTER_PORT" in environ:  # the script's own choice
        port = _integer(environ, "MASTER_PORT", 1, 65536)
    else:  # below Linux's ephemeral ports; other jobs and steps of a node get others
        port = 12000 + (_integer(environ, "SLURM_JOB_ID", 0) + 7919 * step) % 20000
    return Place(number, world, local, address, port, "Slurm")


def first_host(nodes: str) -> str:
    """Return the first host of a list of Slurm's, such as `node[01-03,7],other5`."""
    first = re.match(r"(\[[^]]*\]|[^,\[])*", nodes.strip())[0]
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first)


def _given(environ: Mapping[str, str], name: str) -> str:
    if value := environ.get(name):
        return value
    known = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")
    found = ", ".join(f"{k}={environ[k]}" for k in known if k in environ)
    raise ConfigError(
        f"{name} is not set, but {found}: start the processes with torchrun or srun,"
        " which set all their variables, or unset these for one process"
    )


def _integer(
    environ: Mapping[str, str], name: str, low: int, end: int | None = None
) -> int:
    value = _given(environ, name)
    if value.isdecimal() and low <= int(value) < (end or sys.maxsize):
        return int(value)
    expected = f"{low} or above" if end is None else f"from {low} to {end - 1}"
    raise ConfigError(f"{name}={value} is wrong; expected an integer {expected}")


# --- devices --------------------------------------------------------------------------


def choose_device(hardware: Any) -> torch.device:
    """Return the device of this process among those that `hardware` asks for.

    Raises:
        ConfigError: it asks for more than the machine has.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = place()
    own = here.starter == "Slurm" and here.world_size > 1 and found == 1
    gpus = -1 if own and hardware.gpus not in (0, "0") else hardware.gpus
    ids = gpu_ids(gpus, found)
    if hardware.accelerator == "cpu" or (ids == [] and hardware.gpus is not None):
        return torch.device("cpu")
    if hardware.accelerator == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("hardware.accelerator=mps, but this machine has no MPS")
        if here.world_size > 1:
            raise ConfigError("hardware.accelerator=mps is for one process; use cpu")
        return torch.device("mps")
    if hardware.accelerator == "gpu" and not found:
        raise ConfigError(
            "hardware.accelerator=gpu, but torch sees no GPU; use auto or cpu"
        )
    if not found:
        return torch.device("cpu")
    if own or here.world_size == 1:  # own: Slurm shows each task the one GPU it has
        return torch.device("cuda", ids[0])
    if hardware.gpus is None:
        ids = list(range(found))
    if here.local_rank >= len(ids):
        raise ConfigError(
            f"the process with LOCAL_RANK={here.local_rank} has no GPU of its own among"
            f" {len(ids)}; start as many processes on a machine as hardware.gpus names"
        )
    return torch.device("cuda", ids[here.local_rank])


def gpu_ids(gpus: int | str | list | None, found: int) -> list[int]:
    """Read `hardware.gpus`: a count, a list or "0,1" of ids, -1 for all, 0 for none.

    Raises:
        ConfigError: not one of these forms, or ids that the machine does not have.
    """
    ids = list(range(min(found, 1))) if gpus is None else named_ids(gpus)
    if ids is None:
        ids = list(range(found))
    if missing := [i for i in ids if not 0 <= i < found]:
        raise ConfigError(
            f"hardware.gpus={gpus} asks for GPU {missing[-1]}, but torch sees {found}"
            f" GPU{'s' * (found != 1)}; use hardware.gpus=0 for the CPU"
        )
    if len(set(ids)) < len(ids):
        raise ConfigError(f"hardware.gpus={gpus} names a GPU twice; once is enough")
    return ids


def named_ids(gpus: int | str | list) -> list[int] | None:
    """Return the ids that `hardware.gpus` names, whatever the machine; None for all.

    Raises:
        ConfigError: it is of no form that `gpu_ids` reads.
    """
    try:
        if isinstance(gpus, str) and "," in gpus:
            return [int(part) for part in gpus.split(",") if part.strip()]
        if not isinstance(gpus, (int, str)):
            return [int(part) for part in gpus]
        if (count := int(gpus)) >= -1:
            return None if count == -1 else list(range(count))
    except (TypeError, ValueError):
        pass
    raise ConfigError(
        f"hardware.gpus={gpus} is neither a count, a list of ids, '0,1', -1 nor 0"
    )


def processes_asked(hardware: Any) -> int:
    """Return how many to spawn: one a GPU, or `hardware.processes` on the CPU.

    Returns:
        1 in a process that torchrun, srun or `spawn` started: it is one of them.

    Raises:
        ConfigError: the devices are not there, or `processes` contradicts them.
    """
    started = dist.is_initialized() or "RANK" in os.environ or place().world_size > 1
    return 1 if started else asked_of(hardware)


def asked_of(hardware: Any) -> int:
    """Return `processes_asked` of a process that nothing started beside others."""
    device, processes = choose_device(hardware), getattr(hardware, "processes", None)
    if device.type == "cpu":
        return processes or 1
    gpus = len(gpu_ids(hardware.gpus, torch.cuda.device_count())) or 1
    if processes not in (None, gpus):
        raise ConfigError(
            f"hardware.processes={processes} counts processes on the CPU, and this run"
            f" has {gpus} GPU{'s' * (gpus > 1)}, a process each; set hardware.gpus, or"
            " hardware.accelerator=cpu"
        )
    return gpus
