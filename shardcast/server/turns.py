"""Work in the event loop that is not small: done in slices, and never all the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from aiohttp import web

from shardcast.protocol.wire import RETRY_AFTER

T = TypeVar("T")

_REST = 4.0
"""How many times as long as a piece of work took, nothing like it begins: it has a fifth of the loop."""
_MOST_WAITING = 8
"""Requests that wait for their turn; more are told to come again."""


class Turns:
    """Lets one request after another do what takes long."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, rest: float | None = None) -> None:
        """``rest``: how many times as long as work took nothing begins; 4 without it."""
        self._clock = clock
        self._rest = rest
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._rest_until = 0.0

    async def take(self, slices: Iterable[T]) -> list[T]:
        """Return all ``slices``, with a pause for others after each, and for longer after all.

        Raises:
            HTTPServiceUnavailable: too many wait already.
        """
        if self._waiting >= _MOST_WAITING:
            raise web.HTTPServiceUnavailable(text="503: busy\n", headers={"Retry-After": RETRY_AFTER})
        self._waiting += 1
        try:
            async with self._turn:
                await asyncio.sleep(max(0.0, self._rest_until - self._clock()))
                return await self._done(slices)
        finally:
            self._waiting -= 1

    async def _done(self, slices: Iterable[T]) -> list[T]:
        done, busy, each = [], 0.0, iter(slices)
        try:
            while True:
                begun = self._clock()
                try:
                    done.append(next(each))
                except StopIteration:
                    return done
                finally:
                    busy += self._clock() - begun
                await asyncio.sleep(0)
        finally:
            self._rest_until = self._clock() + (_REST if self._rest is None else self._rest) * busy
