"""Hashing of files in threads of its own, once for all who want the same at a time.

Anybody may ask for any blob. The threads that all else waits for (a broadcast, a list that is written) are
never taken by that, and what nobody waits for any more is hashed no further.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from shardcast.concurrency import Threads, cancel, in_pool

T = TypeVar("T")

HASHING_THREADS = max(2, min(8, os.cpu_count() or 1))
"""Threads of one store that hash, for everybody who asks together."""


class Hashing:
    """The threads, and what is being hashed. ``_flights`` are the event loop's alone."""

    def __init__(self, threads: int = HASHING_THREADS) -> None:
        self._pool = Threads(threads, "shardcast-hash")
        self._flights: dict[tuple[asyncio.AbstractEventLoop, Hashable], _Flight] = {}

    async def run(self, work: Callable[..., T], *words: object) -> T:
        """Do a portion of work in one of the threads; it has ended, or was not begun, when this has ended."""
        return await in_pool(self._pool, work, *words)

    async def once(self, key: Hashable, begin: Callable[[], asyncio.Future[T]]) -> T:
        """Return what comes of a work, done once for all who want it at a time, and given up when the last of
        them has gone. ``begin`` starts it; ``key`` tells it from others."""
        place = asyncio.get_running_loop(), key
        flight = self._flights.get(place)
        if flight is None:
            flight = self._flights[place] = _Flight(begin())
        flight.waiting += 1
        try:
            outcome: T = await asyncio.shield(flight.work)
            return outcome
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                del self._flights[place]  # who comes now begins anew
                await cancel([flight.work])


@dataclass(slots=True)
class _Flight:
    """Work that is under way, and how many wait for it."""

    work: asyncio.Future[Any]
    waiting: int = 0
