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
from collections.abc import Callable, Iterator
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
        return self._missing()

    def _missing(self) -> str:
        """Return which ranks keep others waiting for too long, and what to do."""
        told = {self.rank: self.own} | {r: self._heard_of(r) for r in self.others}
        silent = {self.rank: 0.0}
        for r in self.others:
            ticks, then = self.heard.get(r, (-1, 0))
            then = then if ticks == told[r].ticks else self.own.ticks
            self.heard[r] = told[r].ticks, then
            silent[r] = (self.own.ticks - then) * TICK
        idle = {r: one.idle * TICK + silent[r] for r, one in told.items()}
        # one that is missing itself leaves it to the others to say so first
        late = {r: self.limit * (1.5 if r == self.rank else 1) for r in told}
        kept = [r for r, p in told.items() if p.waiting and idle[r] >= self.limit]
        missing = [
            r
            for r, p in told.items()
            if silent[r] >= DEAD_SECONDS
            or (kept and idle[r] >= late[r] and not (p.waiting or p.patient))
            or (kept and silent[r] >= self.limit / 2 and not p.patient)
        ]
        if not missing and len(kept) < len(told):
            return ""
        if missing:
            ranks = ", ".join(map(str, missing))
            who = f"rank {ranks} of {len(told)} keeps the others waiting"
            silence = any(silent[r] >= self.limit / 2 for r in missing)
            why = "nothing is heard of it" if silence else "it does what they do not"
        else:
            who = f"all {len(told)} ranks keep one another waiting"
            why = "they wait at different places of the code"
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
