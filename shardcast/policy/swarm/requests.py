"""A node's unfinished requests, and the servers with ranges to hand out."""

from __future__ import annotations

from collections.abc import Hashable

from shardcast.policy.backoff import Backoff
from shardcast.policy.swarm.ledger import Asked
from shardcast.policy.swarm.neighbours import Neighbour
from shardcast.policy.swarm.rules import SwarmRules

ENOUGH_READY = 8
"""Ranges in a row served at once by a server until one more request is sent there."""


class Server:
    """A server with ranges to hand out, in the view of a downloading node.

    Attributes:
        key: the caller's name for the server.
        backoff: bounds of its pauses.
        limit: maximum of unfinished requests: some, and more while each is answered at once.
        paused_until: end of the pause of requests.
        unreported: ranges received since the node's last request there.
        claimed: ranges granted for a crossing of the border, and not yet received.
        under_way: unfinished requests there.
        failures: refusals in a row.
        exhausted: whether everything there was handed out.
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
        """Record an answer with a range after some seconds; after many quick ones, allow one more request.

        Two requests end together where they share a link, and the link is idle then until the next two
        arrive. A server with few nodes below it has time for a third.
        """
        if seconds >= rules.kept_after:
            self.had_none()
            return
        self._ready += 1
        if self._ready >= ENOUGH_READY:
            self._ready = 0
            self.limit = max(self.limit, min(self.limit + 1, rules.asker_answers))

    def had_none(self) -> None:
        """Record an answer without a range, and allow only the first number of requests again."""
        self._ready = 0
        self.limit = self._least


class SwarmRequest:
    """An unfinished request: for a server's next range, or for a range of a neighbour.

    Attributes:
        since: time of sending.
        progress_at: time of the last bytes; kept by the caller.
        source: the asked server or neighbour.
        number: the range; None until the server has answered.
        asked: the message to the server; the caller fills in ``node``.
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
        """The asked server; None for a neighbour's range."""
        return self.source if isinstance(self.source, Server) else None

    @property
    def neighbour(self) -> Neighbour | None:
        """The asked neighbour; None for a server's range."""
        return self.source if isinstance(self.source, Neighbour) else None
