"""A watch over the ranks: it ends a run in which one keeps the others waiting.

In a collective a process waits where Python cannot interrupt it. So a thread of each
rank tells the store, once a second, how its rank gets on; and a thread whose rank has
waited for too long reads what the others told, names those that are missing, and ends
its process. What is slow on purpose, an evaluation by one rank or a checkpoint, is done
inside `patient`, and waited for without a limit while its process lives.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch.distributed as dist

TICK = 1.0  # seconds
FIRST = 3  # times as long may the first step take
DEAD_SECONDS = 600  # without a tick: the process is gone, whatever it did
UNANSWERED = 10  # ticks without the store until it is gone, too


@dataclass
class Progress:
    """How a rank gets on, in ticks of its own thread: a suspended machine ages none."""

    ticks: int = 0
    still: int = 0  # ticks since it entered or left a collective
    idle: int = 0  # the same, but since it was patient last
    collectives: int = 0  # entered so far
    waiting: bool = False  # inside of one
    patient: bool = False


class Watch:
    """Count the collectives of this rank, and look at the others where it waits.

    Args:
        store: a connection of its own, as a thread uses it.
        rank: of this process.
        world_size: how many there are.
        seconds: that a rank may keep the others waiting; None: as long as it lives.
        end: is told in words who is missing; it ends this process.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        seconds: float | None,
        end: Callable[[str], None],
    ):
        self.store, self.rank, self.end = store, rank, end
        self.others = [r for r in range(world_size) if r != rank]
        self.seconds = seconds
        self.limit = FIRST * seconds if seconds else math.inf
        self.entered = self.left = 0  # collectives
        self.patience = 0  # contexts of `patient` that are open
        self.own = Progress()
        self.heard: dict[int, tuple[int, int]] = {}  # ticks: of a rank, and own then
        self.unanswered = 0  # by the store, in a row
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stepped(self) -> None:
        """Say that a step was made: the next ones get less time than the first."""
        self.limit = self.seconds or math.inf

    def __enter__(self) -> None:
        self.entered += 1

    def __exit__(self, *_: object) -> None:
        self.left += 1

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Let the others wait for what happens inside."""
        self.patience += 1
        try:
            yield
        finally:
            self.patience -= 1

    def close(self) -> None:
        """Stop watching; harmless when it has stopped."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(TICK):
            try:
                reason = self._tick()
                self.unanswered = 0
            except (RuntimeError, OSError) as error:
                self.unanswered += 1
                reason = f"the store of the ranks is gone: {str(error).splitlines()[0]}"
                reason *= self.unanswered >= UNANSWERED
            if reason and not self._closed.is_set():
                self.end(reason)
                return

    def _tick(self) -> str:
        """Tell the store of this rank; return who is missing, if that is to end it."""
        before, waiting = self.own, self.entered > self.left
        moved = (before.collectives, before.waiting) != (self.entered, waiting)
        patient = self.patience > 0
        self.own = Progress(
            before.ticks + 1,
            0 if moved else before.still + 1,
            0 if moved or patient else before.idle + 1,
            self.entered,
            waiting,
            patient,
        )
        self.store.set(f"rank{self.rank}", json.dumps(asdict(self.own)))
        seconds = self.own.still * TICK
        patience = min(self.limit, DEAD_SECONDS)
        if seconds < patience / 2 or self.own.still % max(1, int(patience / 10 / TICK)):
            return ""
        return self._reason()

    def _reason(self) -> str:
        """Return which ranks are missing, and what to do; nothing if none is."""
        told = {self.rank: self.own} | {r: self._heard_of(r) for r in self.others}
        silence = {self.rank: 0.0}
        for r in self.others:
            ticks, then = self.heard.get(r, (-1, 0))
            then = then if ticks == told[r].ticks else self.own.ticks
            self.heard[r] = told[r].ticks, then
            silence[r] = (self.own.ticks - then) * TICK
        missing = missing_ranks(self.rank, told, silence, self.limit)
        if not missing:
            return ""
        who = f"all {len(told)} ranks keep one another waiting"
        why = "they wait at different places of the code"
        if self.rank not in missing:
            ranks = ", ".join(map(str, sorted(missing)))
            who = f"rank {ranks} of {len(told)} keeps the others waiting"
            long = min(self.limit / 2, DEAD_SECONDS)
            silent = any(silence[r] >= long for r in missing)
            why = "nothing is heard of it" if silent else "it does what they do not"
        return (
            f"{who} for longer than hardware.timeout={self.seconds} s: {why}; if that"
            " only takes long, set a longer time, or null for no limit"
        )

    def _heard_of(self, r: int) -> Progress:
        """Return what another rank told last."""
        key = f"rank{r}"
        if not self.store.check([key]):
            return Progress()
        return Progress(**json.loads(self.store.get(key)))


def missing_ranks(
    rank: int, told: Mapping[int, Progress], silence: Mapping[int, float], limit: float
) -> set[int]:
    """Return the ranks for which a rank has waited too long; all, if all wait so long.

    Args:
        rank: that asks. One that waits for nobody misses those alone that are gone.
        told: what each rank told last.
        silence: seconds since then.
        limit: seconds that a rank may keep the others waiting.
    """
    ranks = told.items()
    idle = {r: one.idle * TICK + silence[r] for r, one in ranks}
    gone = {r for r in told if silence[r] >= DEAD_SECONDS}
    waiting_long = {r for r, one in ranks if one.waiting and idle[r] >= limit}
    if rank not in waiting_long:
        return gone
    busy = {r: one for r, one in ranks if not one.patient}
    silent = {r for r in busy if silence[r] >= limit / 2}
    elsewhere = {r for r, one in busy.items() if not one.waiting and idle[r] >= limit}
    everyone = waiting_long if len(waiting_long) == len(told) else set()
    return gone | silent | elsewhere or everyone
