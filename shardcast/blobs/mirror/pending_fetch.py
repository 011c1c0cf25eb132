"""A blob on its way to a mirror, and the types of a requested blob and of a request's route."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from shardcast.errors import ShardcastError

Wanted = tuple[str, int | None]
"""A digest, and the length of its blob if known."""
Via = frozenset[str]
"""The ids of the nodes on a request's way."""
DIRECT: Via = frozenset()
"""The route of a request from no other node."""


@dataclass(eq=False)
class PendingFetch:
    """One blob on its way.

    Attributes:
        via: the nodes on the request's way. Neither they nor the nodes asked by our servers are asked again.
            So a failure says nothing to a requester on another way, and any requester can name any node.
        started: set with the first bytes, or at the end of the fetch.
        received: received bytes, from all servers together.
        outcome: whether the blob arrived; an exception if a server possibly with the blob did not answer.
    """

    via: Via
    started: asyncio.Event = field(default_factory=asyncio.Event)
    received: int = 0
    outcome: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, arrived: bool, failure: ShardcastError | None = None) -> None:
        """Settle the outcome, unless settled: with ``failure`` where the blob did not arrive."""
        self.started.set()
        if self.outcome.done():
            return
        if failure and not arrived:
            self.outcome.set_exception(failure)
            self.outcome.exception()  # all requesters may have gone: asyncio is not to log it as unretrieved
        else:
            self.outcome.set_result(arrived)
