"""The processes of a run: which one this is, what they exchange, how they end.

`this_process` reads which one from the variables of torchrun or Slurm.
`spawn` starts several on this machine, `start` joins them into torch.distributed's
group, gloo for tensors on the CPU and NCCL for those on GPUs. Every collective is a
no-op for one process; several must call it, all of them and in the same order.
"""

from stable_ssl.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "stable_ssl.distributed.batches": "gather_batches rows_of_ranks",
        "stable_ssl.distributed.checksum": "refuse_differences",
        "stable_ssl.distributed.config": "named_ids",
        "stable_ssl.distributed.gradients": "average_gradients",
        "stable_ssl.distributed.group": (
            "all_gather_object all_mean all_sum at_missing barrier broadcast_object "
            "from_main gather gather_uneven is_main main_first patient rank share "
            "start stepped stop unwatch world_size"
        ),
        "stable_ssl.distributed.placement": (
            "Process choose_device processes_asked refuse_too_many this_process"
        ),
        "stable_ssl.distributed.spawning": "RankFailed spawn",
        "stable_ssl.distributed.vote": "Vote",
    },
)
