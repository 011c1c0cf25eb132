"""Work stealing: the range for an idle worker to take over when nothing is left to start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SHORTEST_WAIT = 0.3
"""Seconds of work left below which a range is not worth another request."""
HOPELESS_WAIT = 2.0
"""Seconds of work left from which on even a few pieces are worth a request."""
FEWEST_PIECES = 4
"""Pieces left below which a faster range is not split."""


@dataclass(frozen=True, slots=True)
class Range:
    """A range under way.

    Attributes:
        key: the caller's name for the range.
        position: offset in the shard of the next byte to come.
        end: offset in the shard of the range's end.
        rate: bytes a second.
    """

    key: int
    position: int
    end: int
    rate: float

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return self.end - self.position

    @property
    def seconds_left(self) -> float:
        """Seconds until the last of them at the rate of now."""
        return self.left / max(self.rate, 1.0)


def steal(
    ranges: Iterable[Range], piece_size: int, rate: float | None, elsewhere: bool = True
) -> tuple[int, int] | None:
    """Return the key of the slowest range, and the offset at which to split.

    None when no range is worth a split. Both shares shall end at the same time.

    Args:
        ranges: the ranges under way.
        piece_size: bytes of a piece; the offset is at the start of one.
        rate: bytes a second of the idle worker's server; None while unknown, for half of the rest.
        elsewhere: whether this is another server. Only then may the whole rest of a range be taken over: a
            hanging server is not asked in a loop.
    """
    worth = [
        one
        for one in ranges
        if (one.left >= FEWEST_PIECES * piece_size and one.seconds_left >= SHORTEST_WAIT)
        or (elsewhere and one.left > 0 and one.seconds_left >= HOPELESS_WAIT)
    ]
    if not worth:
        return None
    slowest = max(worth, key=lambda one: one.seconds_left)
    if slowest.left < FEWEST_PIECES * piece_size:
        if rate is not None and slowest.left > rate * slowest.seconds_left / 2:
            return None
        return slowest.key, slowest.position // piece_size * piece_size
    both = (rate or 0.0) + slowest.rate
    share = rate / both if rate is not None and both else 0.5
    taken = int(slowest.left * share)
    if taken < piece_size:
        return None
    start = max((slowest.end - taken) // piece_size, slowest.position // piece_size + 1) * piece_size
    return slowest.key, start
