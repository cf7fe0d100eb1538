"""Signals that ask a run to stop: heard at once, honoured at the next step boundary.

Before the first step, when there is nothing to save, they are honoured at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

STOP = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)  # Slurm sends the first two
CTRL_C = "stopping after this step; press Ctrl-C again to stop at once"


REQUEUE_SECONDS = 30  # task 0 requeues a job; some clusters end it if another exits


class Preempted(BaseException):
    """A signal asked the run to stop; its state is saved, or there was none yet.

    Like KeyboardInterrupt no Exception, so that nobody takes it for a failure.
    """


class Preemption:
    """Listen for SIGTERM, SIGUSR2 and the first Ctrl-C while the context is open.

    `requested` names the signal that came, None without one. A second Ctrl-C raises
    KeyboardInterrupt at once. Outside the main thread nothing is listened for.

    Whoever opens the context looks at `number` after every step, unless `at_once`.
    While that holds, an error that leaves the context after a signal is Preempted, too:
    an import, or a library, may have made it of the exception that the signal raised.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._at_once = False
        self._process: int | None = None  # a forked worker inherits the handlers
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in STOP:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._at_once and isinstance(error, Exception):
            self.honour(error)

    def at_once(self) -> None:
        """From now on raise Preempted where the signal comes: nothing would be lost."""
        self._at_once = True

    def at_steps(self) -> None:
        """From now on, as at first, leave a signal to whoever looks at `requested`.

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
        if self.requested:
            raise Preempted(self._reason()) from error

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker's: the main process decides for it
        again = number == signal.SIGINT and self.requested == "SIGINT"
        self._signal, self.requested = number, signal.Signals(number).name
        if again:
            raise KeyboardInterrupt
        if self._at_once:
            raise Preempted(self._reason())
        if number == signal.SIGINT:
            _tell(CTRL_C)

    def _reason(self) -> str:
        return f"{self.requested} before the first step; nothing to save"

    @property
    def number(self) -> int:
        """The signal that came, 0 without one."""
        return self._signal or 0

    def adopt(self, number: int) -> None:
        """Do as if a signal had come, which another process of the run heard."""
        self._signal, self.requested = number, signal.Signals(number).name

    def chain(self) -> None:
        """Do what the signal would have done: call the handler from before, or exit.

        Submitit's handler of SIGUSR2 requeues the job and ends the process. Exits with
        128 + the signal's number where there was no handler of Python's.
        """
        before = self._before.get(self._signal)
        if callable(before) and self._signal != signal.SIGINT:
            before(self._signal, None)
            if os.environ.get("SLURM_PROCID", "0") != "0":
                time.sleep(REQUEUE_SECONDS)
        sys.exit(128 + self._signal)


def _tell(text: str) -> None:
    """Write a line to the standard error past Python's buffer.

    A signal may come in the middle of a print, which must not be entered again.
    """
    with suppress(OSError):  # nobody listens any more
        os.write(2, f"\n{text}\n".encode())
