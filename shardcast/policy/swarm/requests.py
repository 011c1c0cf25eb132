"""A node's requests that are out, and the servers that hand out ranges to it."""

from __future__ import annotations

from collections.abc import Hashable

from shardcast.policy.backoff import Backoff
from shardcast.policy.swarm.ledger import Asked
from shardcast.policy.swarm.neighbours import Neighbour
from shardcast.policy.swarm.rules import SwarmRules

ENOUGH_READY = 8
"""Ranges in a row that a server had at once after which one more request is out there."""


class Server:
    """A server that hands out ranges, as a downloading node sees it.

    Attributes:
        key: the caller's name for it.
        backoff: bounds of its pauses.
        limit: requests that are out there at most: some, and more while it answers each at once.
        paused_until: the time until which it is left alone.
        unreported: the ranges that came since the node's last request there.
        claimed: ranges that the server let the node bring across the border, and that are not here yet.
        under_way: requests that are out there.
        failures: refusals in a row.
        exhausted: whether it handed out all that it has.
    """

    __slots__ = (
        "_least",
        "_ready",
        "backoff",
        "claimed",
        "exhausted",
        "failures",
        "key",
        "limit",
        "paused_until",
        "under_way",
        "unreported",
    )

    def __init__(
        self, key: Hashable, backoff: Backoff, *, limit: int, paused_until: float, unreported: int
    ) -> None:
        self.key = key
        self.backoff = backoff
        self.limit = self._least = limit
        self._ready = 0  # answers in a row that had a range at once
        self.paused_until = paused_until
        self.unreported = unreported
        self.claimed = 0
        self.under_way = 0
        self.failures = 0
        self.exhausted = False

    def had_range(self, seconds: float, rules: SwarmRules) -> None:
        """Note that it answered with a range after some seconds.

        Two requests end together where they share a link, which is idle then until the next two have come. A
        server with few nodes below it has time for a third.
        """
        if seconds >= rules.kept_after:
            self.had_none()
            return
        self._ready += 1
        if self._ready >= ENOUGH_READY:
            self._ready = 0
            self.limit = max(self.limit, min(self.limit + 1, rules.asker_answers))

    def had_none(self) -> None:
        """Note that it had no range when it was asked: more requests would bring no more."""
        self._ready = 0
        self.limit = self._least


class SwarmRequest:
    """A request that is out: for a server's next range, or for a range of a neighbour.

    Attributes:
        since: when it was sent.
        progress_at: when its last bytes came; the caller keeps it.
        source: the server or the neighbour that was asked.
        number: the range; None until the server has answered.
        asked: what to tell the server; its ``node`` is for the caller to fill in.
    """

    __slots__ = ("asked", "number", "progress_at", "since", "source")

    def __init__(
        self,
        since: float,
        source: Server | Neighbour,
        *,
        number: int | None = None,
        asked: Asked | None = None,
    ) -> None:
        self.since = self.progress_at = since
        self.source = source
        self.number = number
        self.asked = asked

    @property
    def server(self) -> Server | None:
        """The server that was asked; None for a neighbour's range."""
        return self.source if isinstance(self.source, Server) else None

    @property
    def neighbour(self) -> Neighbour | None:
        """The neighbour that was asked; None for a server's range."""
        return self.source if isinstance(self.source, Neighbour) else None
