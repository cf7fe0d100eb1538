"""What recurs: every so many steps or epochs, and at the end."""

from __future__ import annotations


def is_due(every: int | None, count: int, last: bool = False) -> bool:
    """Return whether something is due after `count` steps or epochs.

    Args:
        every: so many of them; None or 0: at the last alone.
        count: those that are done.
        last: whether none follows.
    """
    return last or bool(every and count % every == 0)
