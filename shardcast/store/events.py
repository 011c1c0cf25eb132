"""The events of a node's versions, numbered, for the feeds of followers."""

from __future__ import annotations

import secrets
from collections import deque

from shardcast.concurrency import Notifier
from shardcast.protocol.distribution import Listing
from shardcast.protocol.feed import Event

_KEPT = 1000
"""Events available to a follower after a break; after more, a follower is told everything."""


class Events:
    """The events of one run of a node.

    Attributes:
        feed: names the run.
        seq: number of the last event.
        closed: whether the node ends.
        open_feeds: how many feeds are open.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self.feed = secrets.token_hex(8)
        self.seq = 0
        self.closed = False
        self.open_feeds = 0
        self._past: deque[Event] = deque(maxlen=kept)
        self._notifier = Notifier()

    def add(self, kind: str, version: str, listing: Listing | None = None, reason: str = "") -> None:
        """Add an event of a version, and wake the readers.

        Args:
            kind: one of the kinds in ``protocol.feed``.
            version: the version.
            listing: the version's line in the list, for kinds with one.
            reason: why, for kinds with a reason.
        """
        self.seq += 1
        self._past.append(Event(self.seq, kind, version, listing, reason))
        self._notifier.notify()

    def begin_feed(self) -> None:
        """Begin a new feed, since the local versions are now of another line.

        Every reader gets a new hello, and an event for each local version.
        """
        self.feed = secrets.token_hex(8)
        self.seq += 1
        self._past.clear()
        self._notifier.notify()

    def wake_readers(self) -> None:
        """Wake the readers without an event: the hello of this node has changed."""
        self._notifier.notify()

    def events_after(self, seq: int) -> list[Event] | None:
        """Return the events after ``seq``; None when some of them were forgotten, or lie ahead."""
        if seq > self.seq or self.seq - seq > len(self._past):
            return None
        return [event for event in self._past if event.seq > seq]

    async def wait_after(self, since: int) -> None:
        """Wait until the last event is not number ``since``, or the node ends."""
        await self._notifier.wait_for(lambda: self.closed or self.seq != since)

    async def wait_for_wake(self) -> None:
        """Wait for the next event, ``wake_readers`` or the end."""
        if not self.closed:
            await self._notifier.change()

    async def wait_closed(self) -> None:
        """Wait until the node ends."""
        await self._notifier.wait_for(lambda: self.closed)

    def close(self) -> None:
        """End all feeds, because the node ends."""
        self.closed = True
        self._notifier.notify()
