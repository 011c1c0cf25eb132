"""The ranges handed out within the last moments."""

from __future__ import annotations

from collections import OrderedDict


class RecentRanges:
    """The ranges noted within a horizon.

    Attributes:
        mask: the ranges.
    """

    __slots__ = ("_horizon", "_moments", "mask")

    def __init__(self, horizon: float) -> None:
        self._horizon = horizon
        self._moments: OrderedDict[int, float] = OrderedDict()
        self.mask = 0

    def add(self, number: int, now: float) -> None:
        """Note a range now."""
        self._moments[number] = now
        self._moments.move_to_end(number)
        self.mask |= 1 << number

    def discard(self, number: int) -> None:
        """Forget a range."""
        self._moments.pop(number, None)
        self.mask &= ~(1 << number)

    def expire(self, now: float) -> int:
        """Forget hand-outs older than the horizon, and return the ranges left."""
        while self._moments:
            number, since = next(iter(self._moments.items()))
            if now - since < self._horizon:
                break
            self.discard(number)
        return self.mask
