"""Work that the training does not wait for: one job at a time, in a thread."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

NAME = "stable_ssl.background"  # of its threads, among those of other libraries


class Background:
    """Do one job at a time in a thread; an error of it is raised where one looks next.

    The thread lives as long as its job, so that workers of data are seldom forked
    beside it. It is no daemon: an interpreter that exits waits for it.
    """

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[..., None], *arguments: Any) -> None:
        """Begin a job, the one before being done; raise that one's error instead."""
        self.wait()
        self._thread = Thread(None, self._do, NAME, (job, *arguments))
        self._thread.start()

    def check(self) -> None:
        """Raise, once, the error that the job has ended with; it takes no time."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait until the job is done; raise its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _do(self, job: Callable[..., None], *arguments: Any) -> None:
        try:
            job(*arguments)
        except BaseException as error:  # or Python would print it, and go on
            self._error = error
