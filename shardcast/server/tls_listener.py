"""A listener that speaks TLS: handshakes within bounds, and plain HTTP answered in words.

A connection counts from its first packet on, so that a silent handshake costs no more than a silent request.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio.sslproto import SSLProtocol
from typing import Any, cast

from aiohttp import web

from shardcast.access.live_context import LiveContext
from shardcast.plain_text import one_line
from shardcast.protocol.wire import TLS_ONLY_REASON
from shardcast.server.connections import Connections

log = logging.getLogger(__name__)

_METHODS = (b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"DELE", b"PATC")
"""How requests in plain HTTP begin; TLS begins with the byte 22."""
_BODY = f"400: {TLS_ONLY_REASON}\n"
_PLAIN_ANSWER = (
    f"HTTP/1.1 400 {TLS_ONLY_REASON}\r\nContent-Type: text/plain\r\nContent-Length: {len(_BODY)}\r\n"
    f"Connection: close\r\n\r\n{_BODY}"
).encode()
_MAX_REASON = 200
"""Characters of an error of OpenSSL in the log."""
_READ_SIZE = 32 << 10
"""Bytes read from the socket at a time. The buffer stays with the connection; asyncio's own has 256 KiB."""


class TlsSite(web.SockSite):
    """A site on a bound socket whose connections begin with a handshake."""

    def __init__(
        self,
        runner: web.AppRunner,
        sock: Any,
        live: LiveContext,
        *,
        connections: Connections,
        handshake_seconds: float,
        backlog: int,
    ) -> None:
        """Prepare a site; ``handshake_seconds`` bounds each handshake."""
        super().__init__(runner, sock, backlog=backlog)
        self._live = live
        self._connections = connections
        self._seconds = handshake_seconds

    async def start(self) -> None:
        """Listen."""
        await web.BaseSite.start(self)
        make, loop = self._runner.server, asyncio.get_running_loop()
        assert make is not None

        def accept() -> TlsProtocol:
            # A whole context for each connection, not a change of certificate at its server name: a client of
            # TLS 1.2 could resume a session of the old context, and its certificate is not looked at then.
            return TlsProtocol(make(), self._live.context, self._connections, self._seconds)

        self._server = await loop.create_server(accept, sock=self._sock, backlog=self._backlog)


class TlsProtocol(SSLProtocol):
    """The TLS of one accepted connection, between the socket's transport and aiohttp's protocol."""

    max_size = _READ_SIZE

    def __init__(
        self,
        http: asyncio.BaseProtocol,
        context: ssl.SSLContext,
        connections: Connections,
        seconds: float,
    ) -> None:
        """Speak TLS below ``http``; the handshake has so many ``seconds``."""
        super().__init__(
            asyncio.get_running_loop(),
            http,
            context,
            None,  # type: ignore[arg-type]  # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=seconds,  # type: ignore[arg-type]  # seconds, whole or not
        )
        self._connections = connections
        self._socket_transport: asyncio.Transport | None = None
        self._received: memoryview | None = None
        self._begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and begin the handshake."""
        self._socket_transport = cast(asyncio.Transport, transport)  # uvloop's is no asyncio.Transport
        self._connections.accept(self._socket_transport)
        super().connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next bytes."""
        self._received = memoryview(super().get_buffer(sizehint))
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        """Take received bytes; a request in plain HTTP as the first ones is answered in plain HTTP."""
        if not self._begun and self._received is not None and self._socket_transport is not None:
            self._begun = True
            if bytes(self._received[: min(4, nbytes)]) in _METHODS:
                self._socket_transport.write(_PLAIN_ANSWER)
                self._socket_transport.close()
                return
        super().buffer_updated(nbytes)

    def _fatal_error(self, exc: BaseException, message: str = "") -> None:
        """Send the alert that says what is wrong before the connection ends; asyncio drops it."""
        if isinstance(exc, ssl.SSLError) and self._socket_transport is not None:
            alert = self._outgoing.read()  # type: ignore[attr-defined]
            if alert and not self._socket_transport.is_closing():
                self._socket_transport.write(alert)
        super()._fatal_error(exc, message)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the connection no more."""
        if self._socket_transport is not None:
            self._connections.release(self._socket_transport)
            if isinstance(exc, (ssl.SSLError, ConnectionAbortedError)):
                peer = self._socket_transport.get_extra_info("peername")
                log.info("no TLS with %s: %s", peer, one_line(str(exc), _MAX_REASON))
            self._socket_transport = None
        self._received = None
        super().connection_lost(exc)
