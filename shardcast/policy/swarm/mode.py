"""How a sharing node fetches: by pieces from whoever has them, or by large ranges from its servers."""

from __future__ import annotations

from dataclasses import dataclass

FAST_LINK = 150e6
"""Bytes a second from which on large ranges are used: no link is waited for there, and the request for a
piece costs more CPU than its bytes (``docs/performance.md``)."""
MEASURED_SECONDS = 0.4
"""Seconds over which the rate is measured."""
FRUITLESS_SECONDS = 3.0
"""Seconds without a byte after which the servers are asked for ranges instead."""
RETRY_SECONDS = 10.0
"""Seconds until pieces are exchanged again after that."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the choice goes by.

    Attributes:
        now: the time, in seconds.
        neighbours: neighbours that the node has.
        hands_out: whether a server hands out pieces.
        received: bytes that came since the download began, from whomever.
    """

    now: float
    neighbours: int
    hands_out: bool
    received: int


class FetchMode:
    """The way in which one download fetches now.

    Attributes:
        exchanges: whether by pieces.
    """

    def __init__(self, now: float, *, exchanges: bool) -> None:
        """Begin one way; ``exchanges`` where a server has named neighbours already."""
        self.exchanges = exchanges
        self._since, self._received = now, 0  # of the measurement
        self._progress_at, self._seen = now, 0
        self._fast = False
        self._not_before = now

    def update(self, situation: Situation) -> bool:
        """Choose by what is known now, and return whether the way has changed."""
        now = situation.now
        if situation.received > self._seen:
            self._seen, self._progress_at = situation.received, now
        if now - self._since >= MEASURED_SECONDS:
            rate = (situation.received - self._received) / (now - self._since)
            self._since, self._received = now, situation.received
            self._fast = self._fast or rate > FAST_LINK
        before, self.exchanges = self.exchanges, self._choose(situation)
        if self.exchanges and not before:
            self._progress_at = now
        return self.exchanges != before

    def _choose(self, situation: Situation) -> bool:
        """Return whether to exchange pieces."""
        now = situation.now
        if not situation.neighbours or not situation.hands_out or self._fast or now < self._not_before:
            # A node that was named neighbours has a moment to reach one of them.
            return self.exchanges and not self._fast and now - self._progress_at < 1.0 and not self._seen
        if self.exchanges and now - self._progress_at >= FRUITLESS_SECONDS:
            self._not_before = now + RETRY_SECONDS
            return False
        return True
