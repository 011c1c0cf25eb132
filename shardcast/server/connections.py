"""The connections of a listener, kept within its bounds.

Each connection has a ``Watch`` between its transport and aiohttp's protocol. A task checks all of them each
second, and ends those over a bound: no head in time, too slow a body, an answer not taken by the reader. So a
route needs no time-outs of its own, and cannot forget one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from aiohttp import web

from shardcast.concurrency import background_task
from shardcast.server.bounds import Address, BodyMemory, Bounds
from shardcast.server.upload_limit import release
from shardcast.server.watch import Watch
from shardcast.server.writing import write_body

log = logging.getLogger(__name__)

_CHECK_SECONDS = 1.0
"""Maximum seconds between two checks of all connections."""
_LOG_SECONDS = 60.0
"""Seconds between two log lines about one address with too many connections."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Handshaking(Protocol):
    """A connection before or after its handshake, for counting and refusing."""

    def get_extra_info(self, name: str) -> Any:
        """Return a fact from the transport about its connection."""
        ...

    def abort(self) -> None:
        """End the connection at once."""
        ...


class BodyTooSlow(ConnectionResetError):
    """The body of a request is slower than the minimum pace."""


class Connections:
    """The open connections of an application, kept within its bounds."""

    def __init__(
        self, bounds: Bounds, memory: BodyMemory, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bounds = bounds
        self._memory = memory
        self._clock = clock
        self._watches: dict[asyncio.BaseTransport, Watch] = {}
        self._accepted: set[object] = set()  # sockets whose connections were counted before their handshake
        self._open: Counter[Address] = Counter()
        self._logged_at: dict[Address, float] = {}

    def watch_server(self, server: web.Server) -> None:
        """Watch each connection to a server from its start.

        A server run by another program (gunicorn) does not call this: its connections are watched from their
        first request on.
        """
        made = server.connection_made

        def connection_made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
            made(handler, transport)
            self._watch(transport)

        server.connection_made = connection_made  # type: ignore[method-assign]

    def _watch(self, transport: asyncio.Transport) -> Watch:
        """Watch a connection, and refuse one too many of its address."""
        accepted = transport.get_extra_info("socket") in self._accepted
        address = None if accepted else self._counted_address(transport)
        self._watches[transport] = watch = Watch(transport, address, self._forget, self._clock)
        self._count(transport, address)
        return watch

    def accept(self, handshake: Handshaking) -> None:
        """Count a connection at the beginning of TLS, and refuse one too many of its address.

        The connection is watched after its handshake.
        """
        self._accepted.add(handshake.get_extra_info("socket"))
        self._count(handshake, self._counted_address(handshake))

    def release(self, handshake: Handshaking) -> None:
        """Stop counting a connection counted by ``accept``."""
        sock = handshake.get_extra_info("socket")
        if sock in self._accepted:
            self._accepted.remove(sock)
            self._uncount(self._counted_address(handshake))

    def _forget(self, watch: Watch) -> None:
        """Stop counting an ended connection."""
        self._watches.pop(watch.transport, None)
        self._uncount(watch.address)

    def _counted_address(self, transport: Handshaking) -> Address | None:
        """Return the address for counting a connection; None for an uncounted one."""
        peer = transport.get_extra_info("peername")
        return self._bounds.counted_address(peer[0]) if isinstance(peer, tuple) else None

    def _count(self, transport: Handshaking, address: Address | None) -> None:
        """Count a connection, and refuse one too many of its address."""
        if address is not None:
            self._open[address] += 1
            if self._open[address] > self._bounds.connections:
                self._refuse(transport, address)

    def _uncount(self, address: Address | None) -> None:
        """Count a connection of an address no more."""
        if address is not None:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def _refuse(self, transport: Handshaking, address: Address) -> None:
        """Abort a connection, and log its address once a minute."""
        now = self._clock()
        if now - self._logged_at.get(address, -_LOG_SECONDS) >= _LOG_SECONDS:
            recent = {other: at for other, at in self._logged_at.items() if now - at < _LOG_SECONDS}
            self._logged_at = recent | {address: now}
            log.warning(
                "%s has %d connections, and gets no more; if it is a proxy, name it by --trusted-proxy, else "
                "allow more by SHARDCAST_CONNECTIONS_PER_ADDRESS",
                address,
                self._bounds.connections,
            )
        transport.abort()

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """The outermost middleware: watch a request from its head to the end of its answer."""
        watch = self.watch_of(request)
        watch.start_request(request)
        try:
            with self._memory.reservation() as watch.reserved:
                response = await handler(request)
                if isinstance(response, web.Response) and not response.prepared:
                    await write_body(request, response)
                return response
        except BodyTooSlow as error:
            if request.writer.output_size:
                raise
            slow: web.HTTPException = web.HTTPRequestTimeout(text=f"408: {error}\n")
            slow.force_close()
            raise slow from None
        finally:
            release(request)
            watch.end_request()

    def watch_of(self, request: web.Request) -> Watch:
        """Return the watch over a request's connection.

        Raises:
            ConnectionError: the client went away.
        """
        if request.transport is None:
            raise ConnectionResetError("the client went away")
        return self._watches.get(request.transport) or self._watch(request.transport)

    async def run(self, app: web.Application) -> AsyncIterator[None]:
        """Check the connections while the application runs (for ``cleanup_ctx``)."""
        async with background_task(self._check_forever()):
            yield

    async def _check_forever(self) -> None:
        """Check the connections at least four times within each bound of seconds."""
        bounds = self._bounds
        shortest = min(bounds.head_seconds, bounds.body_seconds, bounds.reader_seconds)
        pause = min(_CHECK_SECONDS, shortest / 4)
        while True:
            await asyncio.sleep(pause)
            self.check()

    def check(self) -> None:
        """End the connections over a bound, and fail slow bodies.

        Where the bytes of all bodies and unsent answers are too many, drop the slowest readers too.
        """
        now, unsent = self._clock(), 0
        for watch in list(self._watches.values()):
            if watch.transport.is_closing() and not watch.unsent:
                continue
            why = self._over(watch, now)
            if why:
                log.info("%s was dropped: %s", watch.transport.get_extra_info("peername"), why)
                watch.transport.abort()
            else:
                unsent += watch.unsent
        excess = unsent + self._memory.used - self._bounds.all_bytes
        if excess > 0:
            self._shed(excess)

    def _over(self, watch: Watch, now: float) -> str | None:
        """Return in words the bound exceeded by a connection; None within all bounds.

        Also record that the reader took all bytes, and fail the reading of a slow body (``_check_pace``).
        """
        bounds = self._bounds
        if watch.head_since is not None and now - watch.head_since >= bounds.head_seconds:
            return f"no head of a request came within {bounds.head_seconds:g} s"
        if not watch.unsent:
            watch.taken_at = now
        elif now - watch.taken_at >= bounds.reader_seconds:
            return f"it took nothing for {bounds.reader_seconds:g} s"
        if bounds.body_pace is not None and watch.request is not None:
            self._check_pace(watch, watch.request, now)
        return None

    def _check_pace(self, watch: Watch, request: web.Request, now: float) -> None:
        """Fail the reading of a slow body. Time without a reader does not count."""
        content, (since, before) = request.content, watch.body_at
        if content.is_eof():
            return
        if not watch.transport.is_reading() or not watch.body_awaited:
            watch.body_at = (now, content.total_bytes)
        elif now - since >= self._bounds.body_seconds:
            minimum = (self._bounds.body_pace or 0) * (now - since)
            if content.total_bytes - before < minimum:
                content.set_exception(
                    BodyTooSlow(f"less than {self._bounds.body_pace:g} bytes a second came of the body")
                )
            watch.body_at = (now, content.total_bytes)

    def _shed(self, excess: int) -> None:
        """Drop the readers that took nothing for the longest time, until ``excess`` bytes are free."""
        unread = (watch for watch in self._watches.values() if watch.unsent)
        for watch in sorted(unread, key=lambda watch: watch.taken_at):
            if excess <= 0:
                return
            excess -= watch.unsent
            log.info(
                "%s was dropped: unsent answers fill the memory", watch.transport.get_extra_info("peername")
            )
            watch.transport.abort()


CONNECTIONS = web.AppKey("connections", Connections)
