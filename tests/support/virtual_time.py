"""A time that passes only while all readers of a limit wait."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shardcast.concurrency import background_task
from shardcast.fair_limit import FairLimit
from shardcast.policy.byte_limit import Rates


class VirtualTime:
    """A clock, and a sleep that moves it.

    Attributes:
        now: the time.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._limit: FairLimit | None = None

    def clock(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait until the time has come."""
        waiting = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), waiting))
        self._move()
        await waiting

    def _move(self) -> None:
        """Move to the next wake-up, where all readers sleep."""
        if self._limit and self._sleepers and len(self._sleepers) >= self._limit.readers:
            at, _, waiting = heapq.heappop(self._sleepers)
            self.now = max(self.now, at)
            if not waiting.done():
                waiting.set_result(None)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Move the time, in the only thread that waits, and return whether the event is set."""
        self.now += seconds
        return event.is_set()

    @asynccontextmanager
    async def limit(self, rates: Rates) -> AsyncIterator[FairLimit]:
        """Yield a limit in this time."""
        self._limit = limit = FairLimit(rates, self.clock, self.sleep, self.wait)

        async def move_when_one_ends() -> None:
            while True:
                await limit.freed.change()
                self._move()

        async with background_task(move_when_one_ends()):
            yield limit
