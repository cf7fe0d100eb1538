"""The processes that read data: how they start, what signals do, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.context import set_spawning_popen
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from operator import itemgetter
from pickle import PicklingError
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stable_ssl.memory import keep_freed
from stable_ssl.schema import ConfigError, described


class Workers(DataLoader):
    """Torch's loader, which says in words what its workers cannot do.

    Where workers are kept from pass to pass, another loader's pass ends them: there is
    one pool at a time, unless several loaders are read together.

    Args:
        dataset: that the workers read.
        options: keywords of torch's.

    Raises:
        ConfigError: torch refuses one.
    """

    def __init__(self, dataset: Dataset, **options: Any):
        own = torch.Generator()  # its draws leave the global one alone
        options = {"generator": own, "worker_init_fn": start_worker, **options}
        try:
            super().__init__(dataset, **options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"a loader node: {error}") from None
        self.passes = 0  # that go on now
        KEPT.add(self)

    def __iter__(self) -> Iterator[Any]:
        """Yield batches of the workers, which are started where there are none.

        Raises:
            ConfigError: the dataset cannot be sent to a worker, or one ended.
        """
        for other in KEPT - {self}:
            if not other.passes:
                other.close()
        try:
            with _children_end_silently():
                batches = super().__iter__()
        except (PicklingError, AttributeError, TypeError) as error:
            if not self.num_workers:
                raise
            raise _cannot_be_sent(error) from error
        self.passes += 1
        try:
            yield from batches
        except (RuntimeError, OSError, EOFError) as error:  # torch's, of many kinds
            for worker in batches._workers if self.num_workers else ():
                worker.join(0.1)  # one that was just killed
                if worker.exitcode:
                    raise ConfigError(_end_of(worker, self.num_workers)) from error
            raise
        finally:
            self.passes -= 1

    def check_sendable(self) -> None:
        """Refuse what cannot be pickled, where workers do not start as a copy.

        Raises:
            ConfigError: says what cannot be; at the start of the workers it would be
                said, too, which is after much has been built.
        """
        context = self.multiprocessing_context or multiprocessing
        method = context.get_start_method(allow_none=True)  # None: not chosen yet
        method = method or context.get_all_start_methods()[0]  # the platform's
        if not self.num_workers or method == "fork":
            return
        # locks and shared memory can be sent while a process starts, and only then
        set_spawning_popen(SimpleNamespace(DupFd=int, duplicate_for_child=int))
        try:
            _Pickler.dumps(self.dataset)
        except Exception as error:
            raise _cannot_be_sent(error) from error
        finally:
            set_spawning_popen(None)

    def close(self) -> None:
        """End the workers; another iteration starts new ones.

        Torch ends them when the last reference to its iterator goes. In a reference
        cycle, which a trainer is part of, it then waits 5 s for each worker; and it has
        no public way to end them earlier.
        """
        if self._iterator is not None:
            self._iterator._shutdown_workers()
            self._iterator = None


KEPT: WeakSet[Workers] = WeakSet()  # all loaders of this process


def read_beside(dataset: Dataset, rows: Iterable[Any], other: DataLoader) -> list[Any]:
    """Return entries of a dataset, read in a worker if another loader has workers.

    A file that a dataset opens as it is read, and keeps, would otherwise be open in
    this process, and then one for all workers that are forked from it: they would move
    each other's place in it.

    Args:
        dataset: map-style.
        rows: which entries.
        other: loader that says how workers are started.
    """
    return list(
        Workers(
            dataset,
            sampler=rows,
            collate_fn=itemgetter(0),  # of a batch of one
            num_workers=min(1, other.num_workers),
            multiprocessing_context=other.multiprocessing_context,
            worker_init_fn=other.worker_init_fn,
        )
    )


class _Pickler(ForkingPickler):
    """Pickle as for a worker, but no tensor: it can be sent, and may be large."""

    def reducer_override(self, value: Any) -> Any:
        return (Tensor, ()) if isinstance(value, Tensor) else NotImplemented


def _cannot_be_sent(error: Exception) -> ConfigError:
    return ConfigError(
        "the dataset, or an op of its views, cannot be sent to a data worker"
        f" ({described(error)}); define functions and classes at the top of a module,"
        " or set num_workers to 0"
    )


def _end_of(worker: BaseProcess, count: int) -> str:
    """Say how a data worker ended, and why it may have: one of `count`."""
    code, alone = worker.exitcode, f"num_workers=0 instead of {count}"
    if code > 0:
        end = f"ended with exit code {code}; see what it printed, or use {alone}"
    else:
        name = signal.Signals(-code).name
        cause, remedy = "a library that reads the images", f"{alone} may show where"
        if name in ("SIGKILL", "SIGBUS"):
            cause = "the want of memory, of which each worker takes some"
            remedy = f"use fewer than num_workers={count}, or a smaller batch"
        end = f"was ended by {name}, most likely by {cause}; {remedy}"
    return f"a data worker, pid {worker.pid}, {end}"


# --- signals --------------------------------------------------------------------------


@contextmanager
def _children_end_silently() -> Iterator[None]:
    """Keep the process's own handler of SIGCHLD while torch starts workers.

    Torch's would raise the error of a worker that was killed wherever the process is
    just then, in the middle of a step or of writing a file. Without it, whoever waits
    for the worker's next batch learns of its end, within 5 s.
    """
    number = getattr(signal, "SIGCHLD", None)  # not on Windows
    handler = number and signal.getsignal(number)
    try:
        yield
    finally:
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def start_worker(worker: int) -> None:
    """Set up a worker: how it keeps memory, and that only the main process ends it.

    Slurm, Ctrl-C and a closed terminal signal all processes of a job. The main process
    needs its workers to finish the step; it then saves, and ends them by a SIGTERM that
    it sends itself.
    """
    keep_freed()
    for name in ("SIGINT", "SIGUSR2", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # names the sender; not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_parent_asks, daemon=True).start()


def _exit_when_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
