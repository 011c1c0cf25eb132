"""Requests of readers for shards of an open version before their arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from shardcast.concurrency import Notifier


class ShardRequests:
    """The shards awaited by readers, in the order of their first requests; for the event loop alone."""

    def __init__(self, is_here: Callable[[int], bool], notifier: Notifier) -> None:
        """Have no requests yet.

        Args:
            is_here: returns whether a shard is verified, or arriving.
            notifier: notified at each change.
        """
        self._is_here = is_here
        self._notifier = notifier
        self._wanted: deque[int] = deque()

    async def wait_for(self, shard: int, known: bool) -> None:
        """Wait until a shard is here or begins to arrive.

        Args:
            shard: number of the shard.
            known: whether the manifest has the shard's line, so the shard can be fetched next.
        """
        if known and not self._is_here(shard) and shard not in self._wanted:
            self._wanted.append(shard)
            self._notifier.notify()
        await self._notifier.wait_for(lambda: self._is_here(shard))

    async def next(self) -> int:
        """Wait for the next shard requested by a reader, and return its number."""
        await self._notifier.wait_for(lambda: len(self._wanted) > 0)
        return self._wanted.popleft()
