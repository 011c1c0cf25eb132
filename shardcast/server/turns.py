"""Long work in the event loop, done in slices and with pauses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from aiohttp import web

from shardcast.protocol.wire import RETRY_AFTER

T = TypeVar("T")

_REST = 4.0
"""Pause after long work, in multiples of the time it took: such work gets a fifth of the loop."""
_MAX_WAITING = 8
"""Requests that wait for their turn; further ones are refused."""


class Turns:
    """A queue of requests that do long work in the event loop, one after another."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, rest: float | None = None) -> None:
        """``rest``: pause after work, in multiples of the time it took; 4 where None."""
        self._clock = clock
        self._rest = rest
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._rest_until = 0.0

    async def run(self, slices: Iterable[T]) -> list[T]:
        """Return all ``slices``, and let other tasks run after each, and for longer after all.

        Raises:
            HTTPServiceUnavailable: too many requests wait.
        """
        if self._waiting >= _MAX_WAITING:
            raise web.HTTPServiceUnavailable(
                text="503: too many large requests wait here already\n", headers={"Retry-After": RETRY_AFTER}
            )
        self._waiting += 1
        try:
            async with self._turn:
                await asyncio.sleep(max(0.0, self._rest_until - self._clock()))
                return await self._run(slices)
        finally:
            self._waiting -= 1

    async def _run(self, slices: Iterable[T]) -> list[T]:
        """Return all slices, and set the time until which nothing like them starts."""
        done, busy, each = [], 0.0, iter(slices)
        try:
            while True:
                started = self._clock()
                try:
                    done.append(next(each))
                except StopIteration:
                    return done
                finally:
                    busy += self._clock() - started
                await asyncio.sleep(0)
        finally:
            self._rest_until = self._clock() + (_REST if self._rest is None else self._rest) * busy
