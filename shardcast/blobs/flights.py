"""Blobs on their way into a mirror."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from shardcast.errors import ShardcastError

Wanted = tuple[str, int | None]
"""A digest, and the length of its blob where that is known."""
Via = frozenset[str]
NOBODY: Via = frozenset()
"""Of who asks for himself."""


@dataclass(eq=False)
class PendingFetch:
    """One blob on its way here.

    Attributes:
        via: the nodes that passed the question on. They are asked no more, nor are those whom we ask to ask
            them: so that it didn't come says nothing to who came another way, and anybody can name any node.
        begun: set when its first bytes come, or it ends.
        received: its bytes that came, from all servers.
        ended: whether it came; fails when nobody could be asked.
    """

    via: Via
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    received: int = 0
    ended: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, came: bool, failure: ShardcastError | None = None) -> None:
        self.begun.set()
        if self.ended.done():
            return
        if failure and not came:
            self.ended.set_exception(failure)
            self.ended.exception()  # that nobody asks for it any more is no news
        else:
            self.ended.set_result(came)
