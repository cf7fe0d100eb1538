"""Signals that ask a run to stop: heard at once, honoured at the next step boundary."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

STOP = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)  # Slurm sends the first two


class Preempted(BaseException):
    """A signal asked the run to stop, and its state is saved.

    Like KeyboardInterrupt no Exception, so that nobody takes it for a failure.
    """


class Preemption:
    """Listen for SIGTERM, SIGUSR2 and the first Ctrl-C while the context is open.

    `requested` names the signal that came, None without one. A second Ctrl-C raises
    KeyboardInterrupt at once. Outside the main thread nothing is listened for.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
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

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested == "SIGINT":
            raise KeyboardInterrupt
        self._signal, self.requested = number, signal.Signals(number).name

    def chain(self) -> None:
        """Do what the signal would have done: call the handler from before, or exit.

        Submitit's handler of SIGUSR2 requeues the job and ends the process. Exits with
        128 + the signal's number where there was no handler of Python's.
        """
        before = self._before.get(self._signal)
        if callable(before) and self._signal != signal.SIGINT:
            before(self._signal, None)
        sys.exit(128 + self._signal)
