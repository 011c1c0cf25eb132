"""What happened to the versions here, in order, for whoever follows."""

from __future__ import annotations

import secrets
from collections import deque

from shardcast.concurrency import Notifier
from shardcast.protocol.distribution import Listing
from shardcast.protocol.feed import Event

_KEPT = 1000
"""Events that who was away can catch up on; who missed more is told everything."""


class Events:
    """The events of one run of a node.

    Attributes:
        feed: names the run.
        seq: of the last event.
        closed: whether the node ends.
        feeds: how many feeds are open.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self.feed = secrets.token_hex(8)
        self.seq = 0
        self.closed = False
        self.feeds = 0
        self._past: deque[Event] = deque(maxlen=kept)
        self._notifier = Notifier()

    def tell(self, kind: str, version: str, listing: Listing | None = None, reason: str = "") -> None:
        """Something happened to a version."""
        self.seq += 1
        self._past.append(Event(self.seq, kind, version, listing, reason))
        self._notifier.notify()

    def restart(self) -> None:
        """Begin a new feed, since the versions here are now of another line: every reader is told anew
        who speaks and what is here."""
        self.feed = secrets.token_hex(8)
        self.seq += 1
        self._past.clear()
        self._notifier.notify()

    def touch(self) -> None:
        """Wake the readers without an event: what the hello says of this node has changed."""
        self._notifier.notify()

    def since(self, seq: int) -> list[Event] | None:
        """The events after ``seq``; None when they are not all known any more."""
        if seq > self.seq or self.seq - seq > len(self._past):
            return None
        return [event for event in self._past if event.seq > seq]

    async def change(self, since: int) -> None:
        """Wait for an event after ``since``, or the end."""
        await self._notifier.wait_for(lambda: self.closed or self.seq != since)

    async def wake(self) -> None:
        """Wait for the next event, ``touch`` or the end."""
        if not self.closed:
            await self._notifier.change()

    async def end(self) -> None:
        """Wait until the node ends."""
        await self._notifier.wait_for(lambda: self.closed)

    def close(self) -> None:
        """Send everybody who follows away: the node ends."""
        self.closed = True
        self._notifier.notify()
