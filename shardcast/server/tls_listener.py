"""A TLS listener: handshakes within bounds, and plain HTTP answered in words.

A connection counts from its first packet on, so a silent handshake costs no more than a silent request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, cast

from aiohttp import web

from shardcast.access.live_context import LiveContext
from shardcast.plain_text import one_line
from shardcast.protocol.wire import TLS_ONLY_REASON
from shardcast.server.connections import Connections
from shardcast.server.orderly_close import OrderlyClose
from shardcast.server.tls_transport import TlsTransport

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

        def accept(sock: socket.socket, names: Mapping[str, Any]) -> None:
            # A whole context for each connection, not a change of certificate at its server name: a client of
            # TLS 1.2 could resume a session of the old context, without a look at its certificate.
            tls = self._live.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            Handshake(tls, make, self._connections, names=names, seconds=self._seconds)

        self._server = await loop.create_server(
            lambda: _Accepted(accept), sock=self._sock, backlog=self._backlog
        )


class _Accepted(asyncio.Protocol):
    """An accepted connection of asyncio, on its way to TLS."""

    def __init__(self, accept: Callable[[socket.socket, Mapping[str, Any]], None]) -> None:
        self._accept = accept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over: its transport ends, and a second descriptor of its socket stays."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is no asyncio.Transport
        names = {name: transport.get_extra_info(name) for name in ("peername", "sockname")}
        try:
            sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            try:
                sock.setblocking(False)
                self._accept(sock, names)
            except BaseException:
                sock.close()
                raise
        except OSError as error:  # too many open files, or the other end has gone
            log.info("no TLS with %s: %s", names["peername"], one_line(str(error), _MAX_REASON))
        finally:
            transport.abort()


class Handshake:
    """The handshake of one accepted connection, before its transport begins."""

    def __init__(
        self,
        sock: ssl.SSLSocket,
        make: Callable[[], asyncio.BaseProtocol],
        connections: Connections,
        *,
        names: Mapping[str, Any],
        seconds: float,
    ) -> None:
        """Shake hands.

        Args:
            sock: a non-blocking socket, owned from now on.
            make: returns the protocol above TLS.
            connections: count this one.
            names: the addresses of both ends, by their names in ``get_extra_info``.
            seconds: time for the handshake.
        """
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._connections = connections
        self._names = names
        self._begun = False
        self._sock = sock
        self._descriptor = sock.fileno()
        self._timer = self._loop.call_later(seconds, self._time_out, seconds)
        self._loop.add_reader(self._descriptor, self._go_on)
        connections.accept(self)

    def get_extra_info(self, name: str) -> Any:
        """Return a fact from the transport about its connection: its socket and the other end's address."""
        return self._sock if name == "socket" else self._names.get(name)

    def abort(self) -> None:
        """End the connection."""
        self._fail(None)

    def _go_on(self) -> None:
        """Take the next step; a request in plain HTTP as the first bytes is answered in plain HTTP."""
        try:
            if not self._begun:
                self._begun = True
                if socket.socket.recv(self._sock, 4, socket.MSG_PEEK) in _METHODS:
                    socket.socket.send(self._sock, _PLAIN_ANSWER)
                    self._refuse(None)
                    return
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.remove_writer(self._descriptor)
        except ssl.SSLWantWriteError:
            self._loop.add_writer(self._descriptor, self._go_on)
        except OSError as error:
            self._refuse(error)
        else:
            self._stop()
            TlsTransport(self._sock, self._make(), self._released, names=self._names)

    def _time_out(self, seconds: float) -> None:
        self._fail(ConnectionAbortedError(f"no handshake within {seconds:g} s"))

    def _refuse(self, error: Exception | None) -> None:
        """End the connection, once the other end could read why: OpenSSL has sent an alert."""
        self._stop()
        OrderlyClose(self._sock, lambda: self._released(error))

    def _fail(self, error: Exception | None) -> None:
        """End the connection at once."""
        self._stop()
        self._sock.close()
        self._released(error)

    def _stop(self) -> None:
        """Have no more steps taken."""
        self._timer.cancel()
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)

    def _released(self, error: Exception | None) -> None:
        """Count the connection no more, and log a failed handshake."""
        self._connections.release(self)
        if isinstance(error, (ssl.SSLError, ConnectionAbortedError)):
            log.info("no TLS with %s: %s", self._names["peername"], one_line(str(error), _MAX_REASON))
