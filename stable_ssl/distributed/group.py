"""The process group: joining it, leaving it, and what its ranks exchange."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from stable_ssl.distributed.config import Hardware
from stable_ssl.distributed.placement import (
    Process,
    choose_device,
    this_process,
    to_spawn,
)
from stable_ssl.distributed.spawning import RankFailed, abandon
from stable_ssl.distributed.watch import Watch
from stable_ssl.schema import ConfigError

START_SECONDS = 60  # until all ranks are here; imports over a slow network are slow
COLLECTIVE = timedelta(days=7)  # a rank may evaluate for hours: the watch finds hangs

STORE_TIMEOUT = timedelta(seconds=30)  # for an answer to the watch

# torch 2.14 calls it by another name, and warns of the old one
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

T = TypeVar("T")

_store: dist.Store | None = None  # kept for later starts, as its server's port is
_starts = 0
_ours = False  # whether the group is one that `start` made
_watch: Watch | None = None  # over the ranks of that group
_at_missing: Callable[[str], None] | None = None


def rank() -> int:
    """Return this process's number among the run's processes; 0 before `start`."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes of the run; 1 before `start`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this is the process that prints and writes: rank 0."""
    return rank() == 0


def start(hardware: Hardware, seconds: float = START_SECONDS) -> torch.device:
    """Join the other processes of the run, if any; synchronises ranks.

    A group that exists already, such as a notebook's, is used and left as it is.

    Args:
        hardware: the group `hardware` of a configuration.
        seconds: that the other processes have to come.

    Returns:
        The device of this process, CUDA's current one if it is a GPU.

    Raises:
        ConfigError: a variable, an address or a device is wrong, or not all came.
    """
    device, process = choose_device(hardware), this_process()
    _check_nodes(hardware.num_nodes, process)
    if device.type == "cpu" and process.rank == 0:
        _warn_of_cpu(hardware)
    if dist.is_initialized():
        if device.type == "cuda" and process.starter is None:
            device = torch.device("cuda", torch.cuda.current_device())
        elif device.type == "cuda":
            torch.cuda.set_device(device)
        return device
    several = process.world_size > 1
    if not several and (expected := to_spawn(hardware)) > 1:
        raise ConfigError(
            f"hardware asks for {expected} processes, and one was started; start it by"
            f" stable_ssl.launch, or by torchrun --nproc-per-node={expected}"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if several:
        _join(process, device, timedelta(seconds=seconds))
        _start_watch(process, hardware.timeout)
    elif hardware.sharding == "full":
        _join_alone(device)
    return device


def _warn_of_cpu(hardware: Hardware) -> None:
    """Say what is meant for a GPU, where there is none."""
    if str(hardware.gpus) == "-1":
        warnings.warn("hardware.gpus=-1, and torch sees no GPU: the CPU", stacklevel=3)
    if hardware.precision == "float16":
        warnings.warn(
            "hardware.precision=float16 on a CPU, which convolves about a hundred times"
            " slower in it than in float32; use hardware.precision=bfloat16 or float32",
            stacklevel=3,
        )


def _check_nodes(expected: int, process: Process) -> None:
    """Refuse a number of machines that nobody started."""
    if expected == 1:
        return
    if process.starter == "Slurm":
        nodes = os.environ.get("SLURM_STEP_NUM_NODES") or os.environ["SLURM_NNODES"]
        started = int(nodes)
    else:  # torchrun says how many processes there are on this machine
        started = process.world_size // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if started != expected:
        raise ConfigError(
            f"hardware.num_nodes={expected}, but {started} were started; start it by"
            f" hydra/launcher=submitit_slurm or torchrun --nnodes={expected}"
        )


def stop() -> None:
    """Leave the group if `start` made it; safe to call at any time, by any rank."""
    global _ours
    unwatch()
    if _ours and dist.is_initialized():
        dist.destroy_process_group()
    _ours = False


def _join(process: Process, device: torch.device, timeout: timedelta) -> None:
    global _store, _starts, _ours
    address = f"MASTER_ADDR={process.address}, MASTER_PORT={process.port}"
    if process.starter == "Slurm":
        address += " (unless set: SLURM_STEP_NODELIST's first node, by SLURM_JOB_ID)"
    try:
        socket.getaddrinfo(process.address, process.port)
        _store = _store or _connect(process, timeout)
        _starts += 1  # the same on every rank: names of an earlier start are not reused
        store = dist.PrefixStore(f"start{_starts}", _store)
        arrivals = [f"rank{r}" for r in range(process.world_size)]
        if store.add(arrivals[process.rank], 1) > 1:
            raise ValueError(f"two processes came as rank {process.rank}")
        store.wait(arrivals, timeout)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=process.rank,
            world_size=process.world_size,
            timeout=COLLECTIVE,
        )
        _ours = True
        dist.all_reduce(torch.zeros(1, device=device))  # NCCL connects only here
    except (OSError, RuntimeError, ValueError) as error:
        stop()
        raise ConfigError(
            f"rank {process.rank} of {process.world_size} did not meet the others"
            f" within {timeout.total_seconds():.0f} s at {address}:"
            f" {str(error).splitlines()[0]}; are all of them started, and can each"
            " reach this address?"
        ) from error


def _join_alone(device: torch.device) -> None:
    """Make a group of this process alone, which sharded weights need as any other."""
    global _ours
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    _ours = True


def _connect(process: Process, timeout: timedelta) -> dist.Store:
    """Connect to the store through which the ranks find one another."""
    rank, world_size = process.rank, process.world_size
    if process.starter == "torchrun":  # whose agent may be the server
        url = f"env://?rank={rank}&world_size={world_size}"
        return next(dist.rendezvous(url, timeout=timeout))[0]
    return dist.TCPStore(process.address, process.port, world_size, rank == 0, timeout)


# --- who waits for whom ---------------------------------------------------------------


def _start_watch(process: Process, seconds: float | None) -> None:
    """Watch over the ranks, by a connection of its own to where they met."""
    global _watch
    store = dist.TCPStore(process.address, process.port, timeout=STORE_TIMEOUT)
    store = dist.PrefixStore(f"watch{_starts}", store)
    _watch = Watch(store, process.rank, process.world_size, seconds, _end_process)


def _end_process(reason: str) -> None:
    """End this process, which waits for a rank that does not come."""
    with suppress(Exception):  # as of a full disk: the process ends all the same
        if _at_missing is not None:
            _at_missing(reason)
    abandon(RankFailed(reason))


def at_missing(tell: Callable[[str], None]) -> None:
    """Call this with the reason before a rank's absence ends this process."""
    global _at_missing
    _at_missing = tell


def unwatch() -> None:
    """Let ranks leave, or keep one another waiting, from now on."""
    global _watch
    if _watch is not None:
        _watch.close()
    _watch = None


def patient() -> AbstractContextManager:
    """Let the other ranks wait without limit for what happens inside."""
    return nullcontext() if _watch is None else _watch.patient()


def stepped() -> None:
    """Say that the first step was made; see `hardware.timeout`."""
    if _watch is not None:
        _watch.stepped()


def waiting() -> AbstractContextManager:
    """Say that what happens inside waits for the other ranks."""
    if _watch is None or torch.compiler.is_compiling():
        return nullcontext()
    return _watch


# --- collectives ----------------------------------------------------------------------


def barrier() -> None:
    """Wait until all ranks are here; synchronises ranks."""
    if world_size() > 1:
        with waiting():
            dist.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """Let rank 0 do something, such as a download, before the others do it too."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def from_main(fn: Callable[[], T]) -> T:
    """Return on every rank what rank 0's call returns; synchronises ranks.

    Raises:
        ConfigError: rank 0 raised it, and so do the others.
    """
    found: Any = None
    if is_main():
        try:
            with patient():
                found = fn()
        except ConfigError as error:
            found = error
    found = broadcast_object(found)
    if isinstance(found, ConfigError):
        raise found
    return found


@torch.no_grad()
def share(tensors: Iterable[Tensor]) -> None:
    """Give all ranks the values of rank 0's tensors; synchronises ranks."""
    if world_size() > 1:
        with waiting():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def broadcast_object(x: T) -> T:
    """Return rank 0's x; synchronises ranks and, of GPUs, the host."""
    if world_size() == 1:
        return x
    objects = [x]
    with waiting():
        dist.broadcast_object_list(objects, src=0)
    return objects[0]


def all_gather_object(x: T) -> list[T]:
    """Return every rank's x, by rank; synchronises ranks and, of GPUs, the host."""
    if world_size() == 1:
        return [x]
    objects = [x] * world_size()
    with waiting():
        dist.all_gather_object(objects, x)
    return objects


def gather(x: Tensor) -> Tensor:
    """Concatenate every rank's x, by rank, with gradient; synchronises ranks.

    The gradient of x is the sum over ranks of what their losses ask of it. Where the
    loss is the mean over ranks and the parameters' gradients are averaged, as
    DistributedDataParallel does, both equal those of one process with the whole batch.

    Args:
        x: (N, ...), of the same shape on every rank.

    Returns:
        (ranks * N, ...), the same on every rank.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def gather_uneven(x: Tensor) -> Tensor:
    """Concatenate every rank's x, by rank, without gradient; synchronises ranks.

    Args:
        x: (N, ...) with any N, 0 included, and the same other dimensions on every rank.
    """
    if world_size() == 1:
        return x.detach()
    lengths = all_gather_object(len(x))
    padded = x.new_zeros(max(lengths), *x.shape[1:])
    padded[: len(x)] = x.detach()
    parts = _Gather.apply(padded).split(max(1, max(lengths)))
    return torch.cat([p[:n] for p, n in zip(parts, lengths, strict=False)])


def all_sum(x: Tensor) -> Tensor:
    """Return the sum of every rank's x, with gradient; synchronises ranks."""
    return x if world_size() == 1 else _AllSum.apply(x)


def all_mean(x: Tensor) -> Tensor:
    """Return the mean of every rank's x, with gradient; synchronises ranks."""
    return x if world_size() == 1 else _AllSum.apply(x) / world_size()


class _AllSum(torch.autograd.Function):
    """torch.distributed.nn has these two, deprecated: they cannot be compiled."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        with waiting():
            dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return _AllSum.apply(grad)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        gathered = x.new_empty(world_size() * len(x), *x.shape[1:])
        with waiting():
            _all_gather(gathered, x.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        # A reduce-scatter would move half as much, and gloo's older versions lack it.
        return _AllSum.apply(grad).chunk(world_size())[rank()]
