"""The processes of a run: which one this is, what they exchange, how they end.

`this_process` reads which one from the variables of torchrun or Slurm.
`spawn` starts several on this machine, `start` joins them into torch.distributed's
group, gloo for tensors on the CPU and NCCL for those on GPUs. Every collective is a
no-op for one process; several must call it, all of them and in the same order.
"""

from stable_ssl.distributed.batches import gather_batches
from stable_ssl.distributed.checksum import refuse_differences
from stable_ssl.distributed.gradients import average_gradients
from stable_ssl.distributed.group import (
    all_gather_object,
    all_mean,
    all_sum,
    at_missing,
    barrier,
    broadcast_object,
    gather,
    gather_uneven,
    is_main,
    main_first,
    patient,
    rank,
    share,
    start,
    stepped,
    stop,
    unwatch,
    world_size,
)
from stable_ssl.distributed.placement import (
    Process,
    choose_device,
    named_ids,
    processes_asked,
    refuse_too_many,
    this_process,
)
from stable_ssl.distributed.spawning import RankFailed, spawn
from stable_ssl.distributed.vote import Vote

__all__ = [
    "Process",
    "RankFailed",
    "Vote",
    "all_gather_object",
    "all_mean",
    "all_sum",
    "at_missing",
    "average_gradients",
    "barrier",
    "broadcast_object",
    "choose_device",
    "gather",
    "gather_batches",
    "gather_uneven",
    "is_main",
    "main_first",
    "named_ids",
    "patient",
    "processes_asked",
    "rank",
    "refuse_differences",
    "refuse_too_many",
    "share",
    "spawn",
    "start",
    "stepped",
    "stop",
    "this_process",
    "unwatch",
    "world_size",
]
