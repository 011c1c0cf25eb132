"""Small requests over kept connections, answered into the caller's buffers.

Asking for a piece must cost little beside its bytes. This is HTTP/1.1 for such requests alone, on the event
loop: http.client in threads takes twice the CPU, aiohttp three times. An answer that is not plain (a chunked
body) is for aiohttp.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from shardcast.access.secret import clear_locals
from shardcast.constants import CONNECT_TIMEOUT
from shardcast.errors import (
    BadAnswer,
    CannotAsk,
    LocalLimit,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
)
from shardcast.peer.bulk import NotPlain
from shardcast.peer.connecting import SocketAddress, connect
from shardcast.peer.download_limit import receive_buffer_size
from shardcast.peer.failures import broken_error
from shardcast.peer.pace import PORTION
from shardcast.peer.session import Session
from shardcast.peer.tls_failures import tls_failure

_MAX_HEAD = 16 << 10
"""Bytes of a head; those of shardcast nodes have some 400."""
_MAX_INFORMATIONAL = 10
"""Informational answers (1xx) before the answer itself."""
_MAX_DRAINED = 64 << 10
"""Bytes of a body that are read and dropped, so that the connection can be kept."""
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([0-9]{3})(?: ([^\r\n]*))?")
_NO_BODY = frozenset({204, 304})


class _Stale(Exception):
    """A connection that had ended before an answer began."""


class QuickHead(dict[str, str]):
    """The head of an answer: its headers by their names in lower case.

    Attributes:
        status: such as 206.
        reason: the phrase beside the status.
        keeps: whether the connection stays open.
    """

    def __init__(self, raw: bytes) -> None:
        """Parse a head, without the empty line at its end.

        Raises:
            ValueError: the bytes are no head of an answer.
        """
        super().__init__()
        first, *lines = raw.decode("latin-1").split("\r\n")
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            raise ValueError("no status line")
        self.status, self.reason = int(match[2]), match[3] or ""
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name[0] in " \t" or name[-1] in " \t":
                raise ValueError("a line that is no header")
            name, value = name.lower(), value.strip()
            if name == "content-length" and name in self:
                raise ValueError("two lengths")
            self[name] = value
        self.keeps = match[1] == "1" and "close" not in self.get("connection", "").lower()

    def get(self, name: str, default: str = "", /) -> str:  # type: ignore[override]
        """Return the value of a header, whatever the case of its name."""
        return super().get(name.lower(), default)

    @property
    def length(self) -> int | None:
        """Bytes of the body; None where the head doesn't tell.

        Raises:
            ValueError: the length is no number.
        """
        if self.status in _NO_BODY:
            return 0
        text = self.get("content-length")
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise ValueError("a length that is no number")
        return int(text)


Place = Callable[[QuickHead], memoryview | None]
"""A function that returns a buffer of exactly the length of an answer's body; None where that is not wanted.

It may raise a ``ShardcastError``.
"""


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
        server: its URL.
    """

    def __init__(self, server: str, session: Session, timeout: float) -> None:
        """Prepare to ask ``server``; ``timeout`` in seconds for a head, and for 64 KiB of a body."""
        self.server = server
        self._url = urlsplit(server)
        self._session = session
        self._timeout = timeout
        self._idle: deque[_Connection] = deque()
        self._place: SocketAddress | None = None
        self._buffer_size = receive_buffer_size(session.downloads)
        session.closing.append(self.close)

    async def ask(self, request: SmallRequest, place: Place) -> QuickHead:
        """Send a request, and return the head of its answer once the body is where it belongs.

        A body that is not wanted is read and dropped where it is short; else its connection is broken, which
        tells the server. So does a caller that is cancelled.

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
            except _Stale as stale:
                if reused:
                    continue  # the server had closed the idle connection; ask again
                failure = await tls_failure(self.server, stale.__cause__ or stale)
                raise failure or broken_error(self.server, request.name, answered=False) from None
            if connection.is_usable:
                self._idle.append(connection)
            return head

    async def _exchange(self, connection: _Connection, request: SmallRequest, place: Place) -> QuickHead:
        """Send a request over a connection, and return the head of the answer once its body is here."""
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

    def _send(self, connection: _Connection, request: SmallRequest) -> None:
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

    async def _connect(self) -> _Connection:
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
                    lambda: _Connection(self.server, self._timeout),
                    sock=sock,
                    ssl=self._session.tls.context if secure else None,
                    server_hostname=host if secure else None,
                    ssl_handshake_timeout=CONNECT_TIMEOUT if secure else None,
                )
            except BaseException:
                sock.close()
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


class _Connection(asyncio.BufferedProtocol):
    """One connection, with one request at a time."""

    def __init__(self, server: str, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._head = bytearray(_MAX_HEAD)
        self._head_view = memoryview(self._head)
        self._target = self._head_view
        self._filled = 0
        self._whole: asyncio.Future[QuickHead] | None = None
        self._answer: QuickHead | None = None
        self._name = ""
        self._place: Place = lambda head: None
        self._informational = 0
        self._due = 0.0
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        """Whether another request can go over the connection."""
        transport, answer = self._transport, self._answer
        return answer is not None and answer.keeps and transport is not None and not transport.is_closing()

    def start_request(self, name: str, place: Place) -> asyncio.Future[QuickHead]:
        """Expect the answer to a request, whose body goes to ``place``; return the future of its head."""
        self._name, self._place = name, place
        self._target, self._filled, self._answer, self._informational = self._head_view, 0, None, 0
        self._whole = self._loop.create_future()
        self._due = self._loop.time() + self._timeout
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._check_time)
        return self._whole

    def write(self, data: bytes) -> None:
        """Write a request."""
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        """Break the connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._target[self._filled :] if self._filled < len(self._target) else memoryview(bytearray(1))

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that came."""
        if self._whole is None or self._whole.done():
            self.abort()  # bytes that nobody asked for
            return
        before, self._filled = self._filled, self._filled + nbytes
        try:
            if self._answer is None:
                self._take_head(before)
            else:
                self._take_body(nbytes)
        except NotPlain as error:
            self._fail(error)
        except ShardcastError as error:
            self._fail(error)
        except ValueError as error:
            self._fail(BadAnswer(self._server, f"{self._name}: that is no usable answer ({error})"))

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._whole is None or self._whole.done():
            return
        if self._answer is None and not self._filled:
            stale = _Stale()
            stale.__cause__ = error if isinstance(error, ssl.SSLError) else None
            self._whole.set_exception(stale)
        else:
            answered = self._answer is not None
            self._whole.set_exception(broken_error(self._server, self._name, answered, error))

    # The answer

    def _take_head(self, before: int) -> None:
        """Look for the end of the head in what came, and begin the body."""
        end = self._head.find(b"\r\n\r\n", max(0, before - 3), self._filled)
        if end < 0:
            if self._filled == _MAX_HEAD:
                raise ValueError("the head is too long")
            return
        head, rest = QuickHead(bytes(self._head_view[:end])), self._filled - end - 4
        if 100 <= head.status < 200:
            self._informational += 1
            if self._informational > _MAX_INFORMATIONAL or head.status == 101:
                raise ValueError("too many informational answers")
            self._head_view[:rest] = bytes(self._head_view[end + 4 : self._filled])
            self._filled = rest
            self._take_head(0)
            return
        length = None if "transfer-encoding" in head else head.length
        place = self._place(head)
        if place is not None and length is None:
            raise NotPlain
        if place is not None and len(place) != length:
            raise ValueError(f"it sends {length} bytes instead of {len(place)}")
        if place is None and (length is None or length > _MAX_DRAINED):
            head.keeps = False
            self._answer = head
            self._finish()
            self.abort()
            return
        self._answer, self._target = head, memoryview(bytearray(length or 0)) if place is None else place
        if rest > len(self._target):
            raise ValueError("it sends more than it said")
        self._target[:rest] = self._head_view[end + 4 : self._filled]
        self._filled = rest
        self._left = PORTION
        self._take_body(rest)

    def _take_body(self, count: int) -> None:
        """Note bytes of the body that came."""
        if self._filled == len(self._target):
            self._finish()
            return
        self._left -= count
        if self._left <= 0:
            self._left = PORTION
            self._due = self._loop.time() + self._timeout

    def _finish(self) -> None:
        """Hand the answer over."""
        if self._whole is not None and self._answer is not None:
            self._whole.set_result(self._answer)
        self._target, self._filled = self._head_view[:0], 0  # the caller's buffer is its own again

    def _fail(self, error: Exception) -> None:
        """Fail the request, and break the connection."""
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(error)
        self.abort()

    def _check_time(self) -> None:
        """Fail a request whose answer is late; look again when it would be."""
        self._timer = None
        if self._whole is None or self._whole.done():
            return
        if self._loop.time() >= self._due:
            what = "no whole head of an answer" if self._answer is None else "too little"
            self._fail(ServerStalled(self._server, f"{self._name}: {what} came within {self._timeout:g} s"))
        else:
            self._timer = self._loop.call_at(self._due, self._check_time)
