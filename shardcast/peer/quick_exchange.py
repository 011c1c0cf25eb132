"""Small requests over kept connections, answered into the caller's buffers.

A request for a piece must cost little beside the piece's bytes. This is HTTP/1.1 for such requests alone, on
the event loop: http.client in threads takes twice the CPU, aiohttp three times. An answer with a chunked body
is for aiohttp.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

from shardcast.access.secret import clear_locals
from shardcast.constants import CONNECT_TIMEOUT
from shardcast.errors import (
    CannotAsk,
    LocalLimit,
    ServerUnreachable,
    ShardcastError,
)
from shardcast.peer.connecting import SocketAddress, connect
from shardcast.peer.download_limit import receive_buffer_size
from shardcast.peer.failures import broken_error
from shardcast.peer.quick_connection import Place, QuickConnection, QuickHead, StaleConnection
from shardcast.peer.session import Session
from shardcast.peer.tls_failures import tls_failure


@dataclass(frozen=True, slots=True)
class SmallRequest:
    """A request.

    Attributes:
        method: of the request.
        path: below the server's URL.
        body: of the request.
        content_type: of the body.
    """

    method: str
    path: str
    body: bytes
    content_type: str = "application/json"

    @property
    def name(self) -> str:
        """The request in errors."""
        return f"{self.method} {self.path}"


class QuickConnections:
    """Kept connections to one server.

    Attributes:
        server: URL.
    """

    def __init__(self, server: str, session: Session, timeout: float) -> None:
        """Prepare to ask ``server``; ``timeout`` in seconds for a head, and for 64 KiB of a body."""
        self.server = server
        self._url = urlsplit(server)
        self._session = session
        self._timeout = timeout
        self._idle: deque[QuickConnection] = deque()
        self._place: SocketAddress | None = None
        self._buffer_size = receive_buffer_size(session.downloads)
        session.closing.append(self.close)

    async def ask(self, request: SmallRequest, place: Place) -> QuickHead:
        """Send a request, and return the head of its answer once the body is in its place.

        A short unwanted body is read and dropped; a long one costs the connection, to stop the server. So
        does the cancellation of the caller.

        Raises:
            NotPlain: the answer has no length, and is wanted.
            ServerUnreachable, ServerStalled, BadAnswer, TlsFailure, CannotAsk: as their names say.
            UsageError: the server is not https, and TLS is required.
        """
        self._session.access.check_server(self.server)
        while True:
            while self._idle and not self._idle[-1].is_usable:
                self._idle.pop()
            reused = bool(self._idle)
            connection = self._idle.pop() if reused else await self._connect()
            try:
                head = await self._exchange(connection, request, place)
            except StaleConnection as stale:
                if reused:
                    continue  # the server had closed the idle connection; ask again
                failure = await tls_failure(self.server, stale.__cause__ or stale)
                raise failure or broken_error(self.server, request.name, answered=False) from None
            if connection.is_usable:
                self._idle.append(connection)
            return head

    async def _exchange(self, connection: QuickConnection, request: SmallRequest, place: Place) -> QuickHead:
        """Send a request over a connection, and return the head of the answer once the body has come."""
        whole = connection.start_request(request.name, place)
        try:
            self._send(connection, request)
        except BaseException as error:
            connection.abort()
            if error.__traceback__:
                clear_locals(error.__traceback__.tb_next)  # the head that was written may show a token
            raise
        try:
            return await whole
        except BaseException:
            connection.abort()
            raise

    def _send(self, connection: QuickConnection, request: SmallRequest) -> None:
        """Write a request."""
        host = self._url.netloc.rpartition("@")[2]
        lines = [
            f"{request.method} {self._url.path.rstrip('/')}{request.path} HTTP/1.1",
            f"Host: {host}",
            "Accept-Encoding: identity",
            f"Content-Type: {request.content_type}",
            f"Content-Length: {len(request.body)}",
            *(f"{name}: {value}" for name, value in self._session.access.headers_for(self.server).items()),
        ]
        connection.write("\r\n".join(lines).encode() + b"\r\n\r\n" + request.body)

    async def _connect(self) -> QuickConnection:
        """Return a new connection.

        Raises:
            CannotAsk: this machine can't open one.
            ServerUnreachable: none of the server's addresses accepts one.
            TlsFailure: the two ends do not accept each other's certificates or protocols.
        """
        secure = self._url.scheme == "https"
        host, port = self._url.hostname or "", self._url.port or (443 if secure else 80)
        loop = asyncio.get_running_loop()
        try:
            sock, self._place = await connect(host, port, self._place)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._buffer_size:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_size)
                _, connection = await loop.create_connection(
                    lambda: QuickConnection(self.server, self._timeout),
                    sock=sock,
                    ssl=self._session.tls.context if secure else None,
                    server_hostname=host if secure else None,
                    ssl_handshake_timeout=CONNECT_TIMEOUT if secure else None,
                )
            except BaseException:
                sock.close()
                raise
        except ShardcastError:
            raise
        except OSError as error:
            if limit := LocalLimit.of(error):
                raise CannotAsk(self.server, str(limit)) from error
            failure = await tls_failure(self.server, error)
            why = error.strerror or str(error)
            raise failure or ServerUnreachable(self.server, f"no connection ({why})") from error
        return connection

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().abort()
