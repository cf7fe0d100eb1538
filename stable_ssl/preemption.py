"""Signals that ask a run to stop: it does at the next step boundary, once it saved.

Before the first step, when there is nothing to save, it stops at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | None
STOP = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
CTRL_C = "stopping after this step; press Ctrl-C again to stop at once"
REQUEUE_SECONDS = 30  # task 0 requeues a job; some clusters end it if another exits


class Preempted(BaseException):
    """A signal asked the run to stop; its state is saved, or there was none yet.

    Like KeyboardInterrupt no Exception, so that `except Exception` lets it pass.
    """


class Preemption:
    """Listen for `STOP`, of Ctrl-C the first, while the context is open.

    What is ignored, as SIGHUP under nohup, stays ignored. `number` is that of the
    signal that came, 0 without one. A second Ctrl-C raises KeyboardInterrupt at once.
    Outside the main thread nothing is listened for.

    Whoever opens the context looks at `number` after every step, unless `at_once`.
    While that holds, an error that leaves the context after a signal is Preempted, too:
    an import, or a library, may have made it of the exception that the signal raised.
    """

    def __init__(self) -> None:
        self.number = 0
        self._at_once = False
        self._process: int | None = None  # a forked worker inherits the handlers
        self._handlers: dict[int, Handler] = {}  # that were there before, by signal

    def __enter__(self) -> Preemption:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._handlers = listen(self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._at_once and isinstance(error, Exception):
            self.honour(error)

    def at_once(self) -> None:
        """From now on raise Preempted where the signal comes: nothing would be lost."""
        self._at_once = True

    def at_steps(self) -> None:
        """From now on, as at first, leave a signal to whoever looks at `number`.

        Raises:
            Preempted: as `honour`.
        """
        self._at_once = False
        self.honour()

    def honour(self, error: Exception | None = None) -> None:
        """Raise Preempted if a signal came and its exception was lost on its way here.

        Python drops those that are raised in a destructor.

        Args:
            error: what arrived instead.
        """
        if self.number:
            raise Preempted(self._reason()) from error

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # this is a worker, whose main process decides when it stops
        again = number == self.number == signal.SIGINT
        self.number = number
        if again:
            raise KeyboardInterrupt
        if self._at_once:
            raise Preempted(self._reason())
        if number == signal.SIGINT:
            _write_line(CTRL_C)

    def _reason(self) -> str:
        return f"{self.requested} before the first step; nothing to save"

    @property
    def requested(self) -> str | None:
        """The name of the signal that came, None without one."""
        return signal.Signals(self.number).name if self.number else None

    def chain(self) -> None:
        """Do what the signal would have done without this context."""
        end_by_signal(self.number, self._handlers.get(self.number))


def listen(handler: Callable[[int, FrameType | None], Any]) -> dict[int, Handler]:
    """Call a handler for the signals of `STOP`; return those that were there before.

    A signal that is ignored stays ignored: so nohup and a shell's `&` ask it.
    """
    heard = [n for n in STOP if signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def end_by_signal(number: int, handler: Handler) -> None:
    """Call a signal's handler, or exit with 128 + its number where there is none.

    Submitit's handler of SIGUSR2 requeues the job and ends the process.
    """
    if callable(handler) and number != signal.SIGINT:
        handler(number, None)
        if os.environ.get("SLURM_PROCID", "0") != "0":
            time.sleep(REQUEUE_SECONDS)
    sys.exit(128 + number)


def _write_line(text: str) -> None:
    """Write a line to the standard error past Python's buffer.

    A signal may come in the middle of a print, which must not be entered again.
    """
    with suppress(OSError):  # the terminal may be closed
        os.write(2, f"\n{text}\n".encode())
