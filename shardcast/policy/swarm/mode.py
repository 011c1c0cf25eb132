"""The way of fetching of a sharing node: by pieces from all holders, or by large ranges from its servers."""

from __future__ import annotations

from dataclasses import dataclass

FAST_LINK = 150e6
"""Bytes a second from which on large ranges are used: no link limits the node there, and the request for a
piece costs more CPU than its bytes (``docs/performance.md``)."""
BUSY_LINK, BUSY_SHARE = 40e6, 0.9
"""Bytes a second from which on large ranges are tried, too, where the event loop computed, or waited for a
processor, for at least this share of the time: processors are the limit then, not the link."""
TRIAL_SECONDS = 1.0
"""Seconds of a trial of large ranges; with fewer bytes than by pieces, pieces are exchanged again."""
MEETING_SECONDS = 2.0
"""Seconds of exchanging pieces without a neighbour yet, for a node with other members. Large ranges, of which
the server's socket holds seconds' worth on a slow link, would hold up everyone's pieces."""
MEASURED_SECONDS = 0.4
"""Seconds of measuring the rate."""
FRUITLESS_SECONDS = 3.0
"""Seconds without a byte, while pieces are missing, until the servers are asked for ranges instead."""
RETRY_SECONDS = 10.0
"""Seconds until pieces are exchanged again after that."""


@dataclass(frozen=True, slots=True)
class Situation:
    """The facts behind the choice.

    Attributes:
        now: the time, in seconds.
        neighbours: the node's neighbours.
        others: other members of the version known to a server.
        hands_out: whether a server hands out pieces.
        received: bytes received since the beginning of the download, from all sources.
        lacks: whether the node lacks a piece: not while a version's first shard is being made.
        busy: seconds of computing or waiting for a processor of the event loop, since any moment.
    """

    now: float
    neighbours: int
    others: int
    hands_out: bool
    received: int
    lacks: bool = True
    busy: float = 0.0


class FetchMode:
    """The way in which one download fetches now.

    Attributes:
        exchanges: whether by pieces.
    """

    def __init__(self, now: float, *, exchanges: bool, busy: float = 0.0) -> None:
        """Begin one way.

        Args:
            now: the time, in seconds.
            exchanges: whether a server knows of other members already.
            busy: seconds like those of a situation.
        """
        self.exchanges = exchanges
        self._since, self._received = now, 0  # of the measurement
        self._busy = busy
        self._trial: tuple[float, float] | None = None  # of ranges: its end, and the rate of pieces before
        self._tried = False
        self._progress_at, self._seen = now, 0
        self._fast = False
        self._not_before = now
        self._meeting_since: float | None = None  # when other members became known

    def update(self, situation: Situation) -> bool:
        """Choose by the present facts, and return whether the way has changed."""
        now = situation.now
        if situation.received > self._seen or not situation.lacks:
            self._seen, self._progress_at = situation.received, now
        if now - self._since >= MEASURED_SECONDS:
            seconds = now - self._since
            rate = (situation.received - self._received) / seconds
            busy = (situation.busy - self._busy) / seconds
            self._since, self._received, self._busy = now, situation.received, situation.busy
            self._fast = self._fast or rate > FAST_LINK
            self._try_ranges(now, rate, busy)
        before, self.exchanges = self.exchanges, self._choose(situation)
        if self.exchanges and not before:
            self._progress_at = now
        return self.exchanges != before

    def _try_ranges(self, now: float, rate: float, busy: float) -> None:
        """Try ranges, once, where processors are waited for; keep to them if they bring no less."""
        if self._trial is not None:
            if now >= self._trial[0]:
                self._fast = self._fast or rate >= self._trial[1]
                self._trial = None
        elif self.exchanges and not self._tried and rate > BUSY_LINK and busy > BUSY_SHARE:
            self._trial, self._tried = (now + TRIAL_SECONDS, rate), True

    def _choose(self, situation: Situation) -> bool:
        """Return whether to exchange pieces."""
        now = situation.now
        if not situation.hands_out or self._fast or self._trial or now < self._not_before:
            return False
        if not situation.neighbours and not self._may_meet(situation):
            return False
        if self.exchanges and now - self._progress_at >= FRUITLESS_SECONDS:
            self._not_before = now + RETRY_SECONDS
            return False
        return True

    def _may_meet(self, situation: Situation) -> bool:
        """Return whether a node without neighbours may have some in a moment."""
        if not situation.others:
            self._meeting_since = None
        elif self._meeting_since is None:
            self._meeting_since = situation.now
        return self._meeting_since is not None and situation.now - self._meeting_since < MEETING_SECONDS
