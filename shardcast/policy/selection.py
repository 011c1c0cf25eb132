"""Server selection: the score of each server (throughput × success), and the server of the next request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from shardcast.policy.backoff import Backoff

ALPHA = 0.3
"""The share of the newest observation in a moving average."""
HEAL = 0.01
"""What every update gives back of the others' success, so that one that recovered is tried again (0.3.x
does the same)."""
MIN_SUCCESS = 0.01
"""No server's success falls lower: it can always come back."""


FIRST_PAUSE = 1.0
"""Seconds that a server is left alone after a failure, where another can serve; doubled each time."""
MAX_PAUSE = 60.0
_REST = Backoff(FIRST_PAUSE, MAX_PAUSE)


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one server.

    Attributes:
        throughput: bytes a second over all its answers together; None before the first.
        success: between 0 and 1.
        failures: how often it failed since it served last.
        backing_off_until: time until which it is asked only if no other server can serve.
    """

    throughput: float | None = None
    success: float = 1.0
    failures: int = 0
    backing_off_until: float = 0.0

    def observed(self, rate: float) -> Score:
        """Return the score after a look at what the server sends now: ``rate`` bytes a second."""
        known = self.throughput
        return replace(self, throughput=rate if known is None else ALPHA * rate + (1 - ALPHA) * known)

    def succeeded(self) -> Score:
        """Return the score after an answer that came whole and right."""
        return replace(self, success=ALPHA + (1 - ALPHA) * self.success, failures=0, backing_off_until=0.0)

    def failed(self, now: float) -> Score:
        """Return the score after a failure, which tells nothing about the throughput."""
        success = max(MIN_SUCCESS, (1 - ALPHA) * self.success)
        if now < self.backing_off_until:  # answers that were under way together fail together
            return replace(self, success=success)
        backing_off_until = now + _REST.pause(self.failures)
        return replace(self, success=success, failures=self.failures + 1, backing_off_until=backing_off_until)

    def healed(self) -> Score:
        """Return the score after an answer of another server."""
        return replace(self, success=min(1.0, self.success + HEAL))


class Ranking:
    """The scores of the servers of one transfer."""

    def __init__(self, servers: Iterable[str]) -> None:
        self.scores = {server: Score() for server in servers}

    def add_server(self, server: str) -> None:
        """Add a server."""
        self.scores[server] = Score()

    def observed(self, server: str, rate: float) -> None:
        """Note the bytes a second that a server sends now."""
        self.scores[server] = self.scores[server].observed(rate)

    def succeeded(self, server: str) -> None:
        """Note an answer that came whole and right."""
        self._update(server, self.scores[server].succeeded())

    def failed(self, server: str, now: float) -> None:
        """Note an answer that failed."""
        self._update(server, self.scores[server].failed(now))

    def _update(self, server: str, score: Score) -> None:
        self.scores = {other: known.healed() for other, known in self.scores.items()}
        self.scores[server] = score

    def weight(self, server: str) -> float:
        """Return throughput × success.

        A server of unknown throughput counts as fast as the fastest known one: it is worth a try.
        """
        score = self.scores[server]
        best = max((known.throughput or 0.0 for known in self.scores.values()), default=0.0) or 1.0
        return (best if score.throughput is None else score.throughput) * score.success

    def backing_off(self, server: str, now: float) -> bool:
        """Return whether a server failed just now, and is better left alone."""
        return now < self.scores[server].backing_off_until

    def limit(self, server: str, otherwise: int) -> int:
        """Return the requests that a server may have at once: one after a failure, until one succeeds."""
        return 1 if self.scores[server].failures else otherwise


@dataclass(frozen=True, slots=True)
class ServerCandidate:
    """A server that could take a request.

    Attributes:
        server: its URL.
        weight: throughput × success.
        under_way: requests that it is answering now.
        limit: how many it can take at once; old servers answer one after the other.
        failures: how often it failed at this very shard.
        backing_off: whether it failed just now, and is better left alone.
    """

    server: str
    weight: float
    under_way: int = 0
    limit: int = 1_000_000
    failures: int = 0
    backing_off: bool = False


def choose_server(candidates: Iterable[ServerCandidate], random: Random) -> str | None:
    """Return the server that gets the next request; None when every server is at its limit.

    That is the server with the best weight for each request under way there, of those that failed least at
    this shard and, where possible, are not to be left alone; chance decides among equals. So requests are
    spread in proportion to the weights.
    """
    free = [one for one in candidates if one.under_way < one.limit]
    if not free:
        return None
    best_standing = min((one.failures, one.backing_off) for one in free)
    rated = [
        (one.weight / (one.under_way + 1), one.server)
        for one in free
        if (one.failures, one.backing_off) == best_standing
    ]
    best = max(rate for rate, _ in rated)
    return random.choice([server for rate, server in rated if rate >= best * 0.999])
