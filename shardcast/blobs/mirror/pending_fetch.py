"""A blob that a mirror is fetching, and the types of a requested blob and of a request's route."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from shardcast.errors import ShardcastError

Wanted = tuple[str, int | None]
"""A digest, and the length of its blob where that is known."""
Via = frozenset[str]
"""The ids of the nodes that passed a request on."""
DIRECT: Via = frozenset()
"""Of a request that no other node passed on."""


@dataclass(eq=False)
class PendingFetch:
    """One blob that is being fetched.

    Attributes:
        via: the nodes that passed the request on. Neither they nor the nodes that our servers would ask are
            asked again. So a failure says nothing to a requester that came another way, and any requester can
            name any node.
        started: set when the first bytes arrive, or the fetch ends.
        received: bytes that arrived, from all servers together.
        outcome: whether the blob arrived; fails when a server that may have it couldn't be asked.
    """

    via: Via
    started: asyncio.Event = field(default_factory=asyncio.Event)
    received: int = 0
    outcome: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, arrived: bool, failure: ShardcastError | None = None) -> None:
        """Settle the outcome, unless it is settled: with ``failure`` where the blob did not arrive."""
        self.started.set()
        if self.outcome.done():
            return
        if failure and not arrived:
            self.outcome.set_exception(failure)
            self.outcome.exception()  # all requesters may have gone: asyncio is not to log it as unretrieved
        else:
            self.outcome.set_result(arrived)
