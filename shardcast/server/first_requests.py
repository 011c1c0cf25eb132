"""Connections over which no request comes are closed: each takes a descriptor that somebody else needs."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import BaseTransport
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary, WeakSet

from aiohttp import web

log = logging.getLogger(__name__)

FIRST_REQUEST = 60.0
"""Seconds from which on a new connection must have brought the head of a request. Later ones are bounded by
aiohttp."""
_LOOK = 5.0
"""Seconds between two looks."""


class FirstRequests:
    """Knows over which connections of an application requests have come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: WeakSet[BaseTransport] = WeakSet()
        self._seen: WeakKeyDictionary[BaseTransport, float] = WeakKeyDictionary()

    @web.middleware
    async def note(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """A middleware: a request has come."""
        if request.transport:
            self._asked.add(request.transport)
        return await handler(request)

    async def insist(self, server: web.Server) -> None:
        """Close the others in time; for ever."""
        while True:
            await asyncio.sleep(_LOOK)
            self.close_silent(server)

    def close_silent(self, server: web.Server) -> None:
        """Close the connections that have been there for too long without a request."""
        now, closed = self._clock(), 0
        for connection in server.connections:
            transport = connection.transport
            if transport is None or transport in self._asked:
                continue
            if now - self._seen.setdefault(transport, now) >= FIRST_REQUEST:
                connection.force_close()
                transport.abort()
                closed += 1
        if closed:
            log.info("closed %d connections over which no request came for %g s", closed, FIRST_REQUEST)
