"""Which process of a run this is, and which device it computes on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from stable_ssl.distributed.config import Hardware, named_ids
from stable_ssl.schema import ConfigError


@dataclass(frozen=True)
class Process:
    """One process of a run: its number, and the address where all of them meet."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among those of this machine
    address: str | None = None  # of rank 0
    port: int = 0
    starter: str | None = None  # torchrun or Slurm; None: it runs alone


def this_process(environ: Mapping[str, str] = os.environ) -> Process:
    """Read which process this is from the variables of torchrun or of Slurm's srun.

    A batch script or an interactive shell of Slurm is one process, whatever the job's
    number of tasks: only srun sets SLURM_STEP_ID, and numbers the tasks it starts.

    Raises:
        ConfigError: a variable is missing or wrong; it is named with its value.
    """
    if "RANK" in environ:
        return _started_by_torchrun(environ)
    step = environ.get("SLURM_STEP_ID", "")  # above 0xfffffff0: batch, interactive
    if "SLURM_PROCID" in environ and step.isdecimal() and int(step) < 0xFFFFFFF0:
        return _started_by_slurm(environ, int(step))
    if environ.get("WORLD_SIZE", "1") != "1":
        _integer(environ, "RANK", 0)  # missing, so this raises the error
    return Process()


def _started_by_torchrun(environ: Mapping[str, str]) -> Process:
    world_size = _integer(environ, "WORLD_SIZE", 1)
    rank = _integer(environ, "RANK", 0, world_size)
    if world_size == 1:
        return Process(starter="torchrun")
    local_rank = _integer(environ, "LOCAL_RANK", 0, world_size)
    port = _integer(environ, "MASTER_PORT", 1, 65536)
    address = _required(environ, "MASTER_ADDR")
    return Process(rank, world_size, local_rank, address, port, "torchrun")


def _started_by_slurm(environ: Mapping[str, str], step: int) -> Process:
    # a step may have fewer tasks and nodes than its job, whose variables are there too
    tasks, nodes = "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"
    world_size = _integer(environ, tasks if tasks in environ else "SLURM_NTASKS", 1)
    rank = _integer(environ, "SLURM_PROCID", 0, world_size)
    if world_size == 1:
        return Process(starter="Slurm")
    local_rank = _integer(environ, "SLURM_LOCALID", 0, world_size)
    nodes = nodes if nodes in environ else "SLURM_JOB_NODELIST"
    address = environ.get("MASTER_ADDR") or first_host(_required(environ, nodes))
    if "MASTER_PORT" in environ:  # chosen by the user's script
        port = _integer(environ, "MASTER_PORT", 1, 65536)
    else:  # below Linux's ephemeral ports; other jobs and steps of a node get others
        port = 12000 + (_integer(environ, "SLURM_JOB_ID", 0) + 7919 * step) % 20000
    return Process(rank, world_size, local_rank, address, port, "Slurm")


def first_host(nodes: str) -> str:
    """Return the first host of a list of Slurm's, such as `node[01-03,7],other5`."""
    first = re.match(r"(\[[^]]*\]|[^,\[])*", nodes.strip())[0]
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first)


def _required(environ: Mapping[str, str], name: str) -> str:
    if value := environ.get(name):
        return value
    names = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")
    present = ", ".join(f"{n}={environ[n]}" for n in names if n in environ)
    raise ConfigError(
        f"{name} is not set, but {present}: start the processes with torchrun or srun,"
        " which set all their variables, or unset these for one process"
    )


def _integer(
    environ: Mapping[str, str], name: str, low: int, end: int | None = None
) -> int:
    value = _required(environ, name)
    if value.isdecimal() and low <= int(value) < (end or sys.maxsize):
        return int(value)
    expected = f"{low} or above" if end is None else f"from {low} to {end - 1}"
    raise ConfigError(f"{name}={value} is wrong; expected an integer {expected}")


# --- devices --------------------------------------------------------------------------


def choose_device(hardware: Hardware) -> torch.device:
    """Return the device of this process among those that `hardware` asks for.

    Raises:
        ConfigError: it asks for more than the machine has.
    """
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    process = this_process()
    several = process.world_size > 1
    # Slurm may show each of its tasks only the one GPU that the task is to use
    assigned = process.starter == "Slurm" and several and visible == 1
    gpus = -1 if assigned and hardware.gpus not in (0, "0") else hardware.gpus
    ids = gpu_ids(gpus, visible)
    if hardware.accelerator == "cpu" or (ids == [] and hardware.gpus is not None):
        return torch.device("cpu")
    if hardware.accelerator == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("hardware.accelerator=mps, but this machine has no MPS")
        if several:
            raise ConfigError("hardware.accelerator=mps is for one process; use cpu")
        return torch.device("mps")
    if hardware.accelerator == "gpu" and not visible:
        raise ConfigError(
            "hardware.accelerator=gpu, but torch sees no GPU; use auto or cpu"
        )
    if not visible:
        return torch.device("cpu")
    if assigned or not several:
        return torch.device("cuda", ids[0])
    if hardware.gpus is None:
        ids = list(range(visible))
    if process.local_rank >= len(ids):
        raise ConfigError(
            f"the process with LOCAL_RANK={process.local_rank} has no GPU of its own"
            f" among {len(ids)}; start as many processes on a machine as hardware.gpus"
            " names"
        )
    return torch.device("cuda", ids[process.local_rank])


def gpu_ids(gpus: int | str | Sequence[int] | None, visible: int) -> list[int]:
    """Read `hardware.gpus`: a count, a list or "0,1" of ids, -1 for all, 0 for none.

    Raises:
        ConfigError: not one of these forms, or ids that the machine does not have.
    """
    ids = named_ids(min(visible, 1) if gpus is None else gpus)
    ids = list(range(visible)) if ids is None else ids
    if missing := [i for i in ids if i >= visible]:
        raise ConfigError(
            f"hardware.gpus={gpus} asks for GPU {missing[-1]}, but torch sees {visible}"
            f" GPU{'s' * (visible != 1)}; use hardware.gpus=0 for the CPU"
        )
    if len(set(ids)) < len(ids):
        raise ConfigError(f"hardware.gpus={gpus} names a GPU twice; once is enough")
    return ids


def refuse_too_many(path: str, count: int | None) -> None:
    """Refuse a number of processes or threads that the CPUs could never share.

    Raises:
        ConfigError: names the key.
    """
    cpus = os.cpu_count() or 1
    most = max(32, 16 * cpus)  # generous: to wait for a disk, to try a large run small
    if count is not None and count > most:
        raise ConfigError(
            f"{path}={count} is too many for the {cpus} CPU{'s' * (cpus > 1)} of this"
            f" machine; use at most {most}"
        )


def processes_asked(hardware: Hardware) -> int:
    """Return how many to spawn: one a GPU, or `hardware.processes` on the CPU.

    Returns:
        1 in a process that torchrun, srun or `spawn` started: it is one of them.

    Raises:
        ConfigError: the devices are not there, or `processes` contradicts them; or
            more processes or threads than the machine could ever run.
    """
    refuse_too_many("hardware.processes", hardware.processes)
    refuse_too_many("hardware.threads", hardware.threads)
    started = dist.is_initialized() or "RANK" in os.environ
    return 1 if started or this_process().world_size > 1 else to_spawn(hardware)


def to_spawn(hardware: Hardware) -> int:
    """Return `processes_asked` of a process that nothing started beside others."""
    if choose_device(hardware).type == "cpu":
        return hardware.processes or 1
    gpus = len(gpu_ids(hardware.gpus, torch.cuda.device_count())) or 1
    if hardware.processes not in (None, gpus):
        raise ConfigError(
            f"hardware.processes={hardware.processes} counts processes on the CPU, and"
            f" this run has {gpus} GPU{'s' * (gpus > 1)}, a process each; set"
            " hardware.gpus, or hardware.accelerator=cpu"
        )
    return gpus
