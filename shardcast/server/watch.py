"""The watch over one connection: the facts behind the bounds of a listener."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web

from shardcast.server.bounds import Address, Reservation

log = logging.getLogger(__name__)

_MAX_AHEAD = 64 << 10
"""Maximum bytes of further requests before an answer ends. Parsed heads take more memory than their bytes,
and nothing else bounds them during an open answer."""


class Watch(asyncio.Protocol):
    """A protocol that forwards events to aiohttp's protocol and records their times.

    Attributes:
        transport: the connection.
        request: the unanswered request; None between two.
        head_since: beginning of the expected head; None between two requests.
        bytes_ahead: bytes received after the whole request.
        reserved: the memory for the request's body.
        body_awaited: whether the body may arrive: False while the sender waits for ``100 Continue``.
        body_at: start of the current interval of the body's pace, and the bytes received by then.
        taken_at: last time at which the reader had taken all of the unsent bytes, or a good part of them.
        address: the address for counting the connection; None for an uncounted one.
        on_reset: called when the connection breaks, rather than ends, before its next request: the last
            answer may not have been read.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        address: Address | None,
        lost: Callable[[Watch], None],
        clock: Callable[[], float],
    ) -> None:
        """Take the place of the transport's protocol. ``lost`` is called when the connection has ended."""
        inner = transport.get_protocol()
        assert isinstance(inner, asyncio.Protocol)
        self._inner = inner
        self._lost = lost
        self._clock = clock
        self.transport = transport
        self.address = address
        self.on_reset: Callable[[], None] | None = None
        self.request: web.Request | None = None
        now = clock()
        self.head_since: float | None = now
        self.bytes_ahead = 0
        self.reserved: Reservation | None = None
        self.body_awaited = True
        self.body_at = (now, 0)
        self.taken_at = now
        transport.set_protocol(self)

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        """Forward bytes, and record the beginning of a head; abort on too many bytes ahead of the answers."""
        request = self.request
        if request is None:
            if self.head_since is None:
                self.head_since = self._clock()
        elif request.content.is_eof():
            self.bytes_ahead += len(data)
            if self.bytes_ahead > _MAX_AHEAD:
                log.info("%s sends requests ahead of the answers, and was dropped", request.remote)
                self.transport.abort()
                return
        self._inner.data_received(data)

    def resume_writing(self) -> None:
        """Forward, and record the reader's progress."""
        self.taken_at = self._clock()
        self._inner.resume_writing()

    def pause_writing(self) -> None:
        """Forward."""
        self._inner.pause_writing()

    def eof_received(self) -> bool | None:
        """Forward."""
        return self._inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Forward, forget the connection, and call ``on_reset`` where it broke."""
        self._lost(self)
        if error is not None and self.on_reset:
            self.on_reset()
        self.on_reset = None
        self._inner.connection_lost(error)

    # Called by the middleware

    def start_request(self, request: web.Request) -> None:
        """Record the arrival of a request's head."""
        self.request, self.head_since, self.bytes_ahead = request, None, 0
        self.on_reset = None
        self.body_at = (self._clock(), 0)

    def end_request(self) -> None:
        """Record the end of the answer's way to the transport."""
        self.request, self.body_awaited = None, True

    @property
    def unsent(self) -> int:
        """Bytes of answers in memory, not yet taken by the reader."""
        return self.transport.get_write_buffer_size()
