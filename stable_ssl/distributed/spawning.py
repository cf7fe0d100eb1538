"""Starting the processes of a run on this machine, and ending all when one dies."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from stable_ssl.preemption import end_by_signal, listen
from stable_ssl.schema import ConfigError

SETTLE_SECONDS = 2  # for ranks to write their errors after one of them died
GRACE_SECONDS = 10  # between SIGTERM and SIGKILL
T = TypeVar("T")

_error_file: Path | None = None  # where a process of `spawn` leaves its error


class RankFailed(RuntimeError):
    """A process of the run died; the text names its rank, `__cause__` its error."""


def spawn(fn: Callable[..., T], n: int, args: Iterable[Any] = ()) -> T:
    """Run `fn(*args)` in n new processes of this machine; return rank 0's value.

    They find torchrun's variables, and share the CPU's threads. SIGTERM, SIGUSR2,
    SIGHUP and Ctrl-C are passed on; when all have ended on one, it then acts here, too.
    A second Ctrl-C ends them. None outlives this process.

    Args:
        fn: found by its module's name in a new interpreter, so defined at its top.
        n: processes, ranks 0 to n - 1.
        args: what pickle can carry; in a notebook, its own classes and functions too.

    Raises:
        RankFailed: a process died; the others were ended.
        ConfigError: a process raised it.
    """
    if "RANK" in os.environ:
        raise RuntimeError(f"rank {os.environ['RANK']} of a run spawns no other ranks")
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environ = {
        "WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(server.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # this server: no port to race for
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    context = torch.multiprocessing.get_context("spawn")
    call = _portable(fn, tuple(args))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes: list[BaseProcess] = []
        with _forward_signals(processes) as signals:
            try:
                for r in range(n):
                    variables = environ | {"RANK": str(r), "LOCAL_RANK": str(r)}
                    child_args = (call, variables, folder, os.getpid())
                    process = context.Process(target=_child, args=child_args)
                    process.start()
                    processes.append(process)
                deaths = _watch(processes, signals, folder)
            finally:
                _end(processes)
        if deaths and signals and all(_obeyed(code, signals) for *_, code in deaths):
            end_by_signal(signals[0], signal.getsignal(signals[0]))
        if deaths:
            # report a process that was killed before it could write its error, or else
            # the first error: the other ranks fail because a rank is missing
            killed = {r for _, r, code in deaths if code < 0}
            killed = {r for r in killed if not (folder / f"error{r}").exists()}
            _, r, code = min(deaths, key=lambda death: (death[1] not in killed, death))
            _raise_for(r, n, code, folder / f"error{r}")
        return pickle.loads((folder / "value0").read_bytes())


def _portable(fn: Callable[..., Any], args: tuple) -> bytes:
    """Return the call as a new interpreter can read it.

    It imports the file that this one began with; a notebook has none, so its classes
    and functions travel whole, by what submitit carries a job with.
    """
    if getattr(sys.modules["__main__"], "__file__", None) is not None:
        return pickle.dumps((fn, args))
    import cloudpickle

    return cloudpickle.dumps((fn, args))


def _child(call: bytes, environ: dict[str, str], folder: Path, parent: int) -> None:
    """Run the call in one of the processes of `spawn`."""
    global _error_file
    _error_file = folder / f"error{environ['RANK']}"
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # the parent died before that call
        sys.exit(1)
    faulthandler.enable()  # a crash below Python prints where it was
    os.setsid()  # a terminal's Ctrl-C comes once, through the parent
    os.environ |= environ
    # or workers of data would start as this process did, and import all anew
    torch.multiprocessing.set_start_method(None, force=True)
    if "OMP_NUM_THREADS" not in os.environ:
        share = torch.get_num_threads() // int(environ["WORLD_SIZE"])
        torch.set_num_threads(max(1, share))
    try:
        fn, args = pickle.loads(call)
        value = fn(*args)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if not isinstance(error, ConfigError):  # which the parent prints
            traceback.print_exc()
        _error_file.write_bytes(_pickled(error))
        sys.exit(1)
    value = value if environ["RANK"] == "0" else None
    (folder / f"value{environ['RANK']}").write_bytes(pickle.dumps(value))


def abandon(error: Exception) -> NoReturn:
    """End this process at once, from any thread, and say why."""
    if _error_file is not None:
        _error_file.write_bytes(_pickled(error))
    else:
        print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _pickled(error: Exception) -> bytes:
    """Return the error as the parent can read it, at worst its text."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        data = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return data


@contextmanager
def _forward_signals(processes: Sequence[BaseProcess]) -> Iterator[list[int]]:
    """Pass signals on while open; yield the list of those that came."""
    signals: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and number in signals
        signals.append(number)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)
        if again:
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    handlers = listen(forward) if main else {}
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _watch(
    processes: Sequence[BaseProcess], signals: Sequence[int], folder: Path
) -> list[tuple[float, int, int]]:
    """Wait until all ended, or one died and the others had time to write their errors.

    Returns:
        Time, rank and exit code of those that ended before their work was done.
    """
    alive, deaths, deadline = dict(enumerate(processes)), [], float("inf")
    while alive and time.monotonic() < deadline:
        wait([p.sentinel for p in alive.values()], timeout=SETTLE_SECONDS / 4)
        for r, process in list(alive.items()):
            if process.exitcode is not None:
                del alive[r]
            # the work is done even if the interpreter then crashes while it exits
            done = (folder / f"value{r}").exists()
            if process.exitcode and not done:
                error = folder / f"error{r}"
                died_at = error.stat().st_mtime if error.exists() else time.time()
                deaths.append((died_at, r, process.exitcode))
                if process.exitcode - 128 not in signals:  # else the others are saving
                    deadline = min(deadline, time.monotonic() + SETTLE_SECONDS)
    for r in alive:  # one that has written its error may still be exiting
        if (error := folder / f"error{r}").exists():
            deaths.append((error.stat().st_mtime, r, 1))
    return deaths


def _end(processes: Sequence[BaseProcess]) -> None:
    """End what still runs: with SIGTERM, and SIGKILL where that has no effect."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _obeyed(code: int, signals: Sequence[int]) -> bool:
    """Return whether an exit code is that of a process which a signal asked to stop."""
    starting = code == 1 and signal.SIGINT in signals  # Python exits so before `_child`
    return code - 128 in signals or -code in signals or starting


def _raise_for(r: int, n: int, code: int, path: Path) -> None:
    """Raise the error that names the rank which failed."""
    error = pickle.loads(path.read_bytes()) if path.exists() else None
    if isinstance(error, (ConfigError, RankFailed)):
        raise error
    end = f"exited with code {code}"
    if error is not None:
        end = f"failed: {type(error).__name__}: {error}"
    elif code < 0:
        end = f"was ended by {signal.Signals(-code).name}"
        end += " (out of memory?)" if -code == signal.SIGKILL else ""
    raise RankFailed(f"rank {r} of {n} {end}; the other ranks were ended") from error
