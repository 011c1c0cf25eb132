"""What the bounds of a listener need to know of one connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web

from shardcast.server.bounds import Address, Reservation

log = logging.getLogger(__name__)

_MAX_AHEAD = 64 << 10
"""Bytes of further requests that a client may send while one is being answered. Parsed heads take more memory
than their bytes, and nothing else bounds them while an answer stays open."""


class Watch(asyncio.Protocol):
    """Hands everything on to aiohttp's protocol, and remembers what the bounds need.

    Attributes:
        transport: the connection.
        request: the request that is being answered; None between two.
        head_since: when the head that is expected began to come; None between two requests.
        ahead: bytes that came while the whole request was here already.
        reserved: the memory for the request's body.
        body_awaited: whether the body may come: false while the sender waits to be told to go on.
        body_at: when the current look at the body's pace began, and the bytes that were here then.
        taken_at: when the reader had last taken all that was to be sent, or a good part of it.
        address: under which it is counted; None where it is not.
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
        self.request: web.Request | None = None
        now = clock()
        self.head_since: float | None = now
        self.ahead = 0
        self.reserved: Reservation | None = None
        self.body_awaited = True
        self.body_at = (now, 0)
        self.taken_at = now
        transport.set_protocol(self)

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        request = self.request
        if request is None:
            if self.head_since is None:
                self.head_since = self._clock()
        elif request.content.is_eof():
            self.ahead += len(data)
            if self.ahead > _MAX_AHEAD:
                log.info("%s sends requests ahead of the answers, and was dropped", request.remote)
                self.transport.abort()
                return
        self._inner.data_received(data)

    def resume_writing(self) -> None:
        self.taken_at = self._clock()
        self._inner.resume_writing()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(self)
        self._inner.connection_lost(error)

    # What the middleware calls

    def begins(self, request: web.Request) -> None:
        """A head has come."""
        self.request, self.head_since, self.ahead = request, None, 0
        self.body_at = (self._clock(), 0)

    def ends(self) -> None:
        """The answer has been handed over."""
        self.request, self.body_awaited = None, True

    @property
    def unsent(self) -> int:
        """Bytes of answers that are in memory, since the reader has not taken them."""
        return self.transport.get_write_buffer_size()
