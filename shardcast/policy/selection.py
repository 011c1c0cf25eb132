"""Server selection: the score of each server (throughput × success), and the server of the next request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from shardcast.policy.backoff import Backoff

ALPHA = 0.3
"""The share of the newest observation in a moving average."""
HEAL = 0.01
"""Success regained by all other servers at each update, so a recovered server is tried again (as in 0.3.x).
"""
MIN_SUCCESS = 0.01
"""Lower bound of every server's success: each one can come back."""


FIRST_PAUSE = 1.0
"""Seconds to leave a server alone after a failure, where another can serve; doubled each time."""
MAX_PAUSE = 60.0
_REST = Backoff(FIRST_PAUSE, MAX_PAUSE)


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one server.

    Attributes:
        throughput: bytes a second over all answers together; None before the first.
        success: between 0 and 1.
        failures: failures since the last success.
        backing_off_until: end of the time of asking this server only if no other can serve.
    """

    throughput: float | None = None
    success: float = 1.0
    failures: int = 0
    backing_off_until: float = 0.0

    def observed(self, rate: float) -> Score:
        """Return the score after a measurement of the server's present ``rate``, in bytes a second."""
        known = self.throughput
        return replace(self, throughput=rate if known is None else ALPHA * rate + (1 - ALPHA) * known)

    def succeeded(self) -> Score:
        """Return the score after a whole and right answer."""
        return replace(self, success=ALPHA + (1 - ALPHA) * self.success, failures=0, backing_off_until=0.0)

    def failed(self, now: float) -> Score:
        """Return the score after a failure; the throughput stays.

        A failure during the pause after an earlier one lowers the success only.
        """
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
        """Record a server's present rate, in bytes a second."""
        self.scores[server] = self.scores[server].observed(rate)

    def succeeded(self, server: str) -> None:
        """Record a whole and right answer; all other servers regain some success."""
        self._update(server, self.scores[server].succeeded())

    def failed(self, server: str, now: float) -> None:
        """Record a failed answer; all other servers regain some success."""
        self._update(server, self.scores[server].failed(now))

    def _update(self, server: str, score: Score) -> None:
        self.scores = {other: known.healed() for other, known in self.scores.items()}
        self.scores[server] = score

    def weight(self, server: str) -> float:
        """Return throughput × success.

        A server of unknown throughput counts as fast as the fastest known one, to be tried at all.
        """
        score = self.scores[server]
        best = max((known.throughput or 0.0 for known in self.scores.values()), default=0.0) or 1.0
        return (best if score.throughput is None else score.throughput) * score.success

    def backing_off(self, server: str, now: float) -> bool:
        """Return whether a server failed just now, and is better left alone."""
        return now < self.scores[server].backing_off_until

    def limit(self, server: str, otherwise: int) -> int:
        """Return a server's maximum of simultaneous requests: one after a failure, until one succeeds."""
        return 1 if self.scores[server].failures else otherwise


@dataclass(frozen=True, slots=True)
class ServerCandidate:
    """A candidate for the next request.

    Attributes:
        server: URL.
        weight: throughput × success.
        under_way: unfinished requests at this server.
        limit: maximum of simultaneous requests; old servers answer one after the other.
        failures: failures at this very shard.
        backing_off: whether a recent failure makes other servers preferable.
    """

    server: str
    weight: float
    under_way: int = 0
    limit: int = 1_000_000
    failures: int = 0
    backing_off: bool = False


def choose_server(candidates: Iterable[ServerCandidate], random: Random) -> str | None:
    """Return the server for the next request; None when every server is at its limit.

    Choose among the servers with the fewest failures at this shard and, where possible, without a recent
    failure: the one with the best weight for each request under way there, at random among equals. So
    requests are spread in proportion to the weights.
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
