"""Which server gets the next request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class ServerCandidate:
    """A server that could take a request.

    Attributes:
        server: its URL.
        weight: throughput × success.
        under_way: requests that it is answering now.
        limit: how many it can take at once; old servers answer one after the other.
        failures: how often it failed at this very shard.
        rests: whether it failed just now, and is better left alone.
    """

    server: str
    weight: float
    under_way: int = 0
    limit: int = 1_000_000
    failures: int = 0
    rests: bool = False


def choose(candidates: Iterable[ServerCandidate], random: Random) -> str | None:
    """The server with the best weight for each request under way there, of those that failed least at
    this shard and, where possible, are not to be left alone; chance decides among equals. None when every
    one is at its limit.

    Requests are so spread in proportion to the weights.
    """
    free = [one for one in candidates if one.under_way < one.limit]
    if not free:
        return None
    best_standing = min((one.failures, one.rests) for one in free)
    rated = [
        (one.weight / (one.under_way + 1), one.server)
        for one in free
        if (one.failures, one.rests) == best_standing
    ]
    best = max(rate for rate, _ in rated)
    return random.choice([server for rate, server in rated if rate >= best * 0.999])
