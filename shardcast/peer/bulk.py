"""The bytes of shards from plain answers into their landings, at the speed of the machine.

A thread for each answer receives into a buffer, verifies and writes it: three calls that release the
interpreter lock, and no byte is copied in between. An answer that is not plain (a redirect, a chunked body, a
proxy) is handed over to aiohttp.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from shardcast.access.secret import clear_locals, has_secret
from shardcast.errors import BadAnswer, LocalLimit, ServerStalled, ServerUnreachable, ShardcastError
from shardcast.fair_limit import Share
from shardcast.peer.bounded_answers import BoundedResponse, Connection, SecureConnection
from shardcast.peer.connecting import SocketAddress, connect
from shardcast.peer.download_limit import receive_buffer_size
from shardcast.peer.failures import broken_error
from shardcast.peer.landing_writer import BUFFER_SIZE, receive_buffer
from shardcast.peer.proxies import proxy_of
from shardcast.peer.requests import Answer, RangeRequest
from shardcast.peer.session import Session
from shardcast.peer.tls_failures import tls_failure_in_thread
from shardcast.store.landing import Landing

_MIN_READ = 16 * 1024
"""Bytes of one read of a slow body, so a slow server is not taken for a silent one."""
_FAST, _SLOW = 0.005, 0.05
"""Seconds for one read, below which the next one is larger, and above which the next one is smaller."""
_PIECE_SECONDS = 0.025
"""Seconds for one read, below which the next one is larger up to a whole piece: none lands earlier."""
_FAST_RATE = 50e6
"""Bytes a second of one answer, below which its thread is woken only with all bytes present."""


class NotPlain(Exception):
    """An answer for aiohttp alone."""


@dataclass(eq=False)
class _PooledConnection:
    """A pooled connection and whether its request was cancelled.

    Attributes:
        connection: the connection of http.client.
        fresh: whether no request has used the connection yet.
        cancelled: whether the waiting task was cancelled.
        ended: set together with ``cancelled``, for a thread in a queue.
    """

    connection: http.client.HTTPConnection
    fresh: bool
    cancelled: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def shutdown(self) -> None:
        """End the connection, whatever its thread waits for."""
        self.cancelled = True
        self.ended.set()
        if self.connection.sock:
            try:
                self.connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the connection ended by itself meanwhile


class Bulk:
    """Plain answers from one server, over pooled connections.

    Attributes:
        direct: whether no proxy stands between; else every answer is for aiohttp.
    """

    def __init__(self, server: str, session: Session, timeout: float) -> None:
        """Prepare to ask ``server``, a URL, by a session; ``timeout`` in seconds without a byte."""
        self._server = server
        self._url: SplitResult = urlsplit(server)
        self._access = session.access
        self._threads = session.threads
        self._buffer_size = receive_buffer_size(session.downloads)
        self._tls = session.tls
        session.closing.append(self.close)
        self._timeout = timeout
        self._idle: deque[_PooledConnection] = deque()
        self._place: SocketAddress | None = None
        self.direct = proxy_of(server) is None

    async def receive(
        self,
        path: str,
        headers: dict[str, str],
        landing: Landing,
        request: RangeRequest,
        *,
        share: Share | None = None,
    ) -> Answer:
        """Ask for a range, verify and write it; return the answer's head. Pieces landed before an error stay.

        Args:
            path: path of the shard, below the server's URL.
            headers: headers of the request.
            landing: landing of the shard.
            request: the range; its ``end`` may fall meanwhile.
            share: share of the download limit; None without one.

        Raises:
            NotPlain: the answer is for aiohttp; nothing was taken of its body.
            UsageError: the server is not https, and TLS is required.
            WrongPiece: a piece was wrong.
            PeerError: no answer, another one than the range, or a broken one, as in ``Peer.receive``.
            LocalDiskError: the landing can't be written. LocalLimit: no connection, thread or memory here.
        """
        self._access.check_server(self._server)
        while True:
            pooled = self._idle.pop() if self._idle else await self._connect()
            reused, pooled.fresh = not pooled.fresh, False
            exchange = _Exchange(
                server=self._server,
                path=self._url.path + path,
                headers=self._access.headers_for(self._server) | headers,
                landing=landing,
                request=request,
                pooled=pooled,
                share=share,
            )
            try:
                answer = await landing.in_thread(exchange.run, executor=self._threads)
            except _Stale:
                if reused:
                    continue  # the server had closed the idle connection; ask again
                raise broken_error(self._server, f"GET {path}", answered=False) from None
            except LocalLimit:
                # No thread can be started. A later one finds the connection cancelled.
                pooled.shutdown()
                pooled.connection.close()
                raise
            except asyncio.CancelledError:
                pooled.shutdown()
                # The thread closes the connection, unless it never starts, or has just ended well.
                if not exchange.started or exchange.kept:
                    pooled.connection.close()
                raise
            if exchange.kept:
                self._idle.append(pooled)
            return answer

    async def _connect(self) -> _PooledConnection:
        """Return a new connection.

        Raises:
            LocalLimit: this machine can't open one.
            ServerUnreachable: none of the server's addresses accepts one.
        """
        host, port = self._url.hostname or "", self._url.port or 80
        try:
            sock, self._place = await connect(host, port, self._place)
        except ShardcastError:
            raise
        except OSError as error:
            if limit := LocalLimit.of(error):
                raise limit from error
            raise ServerUnreachable(self._server, f"no connection ({error.strerror or error})") from error
        sock.settimeout(self._timeout)
        if self._buffer_size:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_size)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _PooledConnection(self._over(sock, host, port), fresh=True)

    def _over(self, sock: socket.socket, host: str, port: int) -> http.client.HTTPConnection:
        """Return an HTTP connection over a connected socket; TLS shakes hands later, in the thread."""
        if self._url.scheme == "https":
            context = self._tls.context  # without one, http.client loads the system's CAs for each connection
            connection: http.client.HTTPConnection = SecureConnection(host, port, context=context)
            sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        else:
            connection = Connection(host, port)
        connection.response_class = _WholeHead
        connection.sock = sock
        return connection

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().connection.close()


class _LineReader(io.BufferedReader):
    """The bytes of a connection.

    Attributes:
        ended: whether the connection ended in the middle of the last line read.
        is_late: whether reads into large buffers wake their thread late.
    """

    ended = is_late = False

    def readinto(self, buffer: Any, /) -> int:
        """Receive into a buffer, by one read where reads are late: another would wait for missing bytes."""
        return self.readinto1(buffer) if self.is_late else super().readinto(buffer)

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.ended = not line.endswith(b"\n")
        return line


class _WholeHead(BoundedResponse):
    """An answer whose head must be whole: http.client takes the end of a connection for the end of a head."""

    def read_late(self, is_late: bool) -> None:
        super().read_late(is_late)
        if isinstance(self.fp, _LineReader):
            self.fp.is_late = self._source.is_late

    def begin(self) -> None:
        assert isinstance(self.fp, io.BufferedReader)
        self.fp = lines = _LineReader(self.fp.detach())
        try:
            super().begin()
        except http.client.BadStatusLine as error:
            if lines.ended and not isinstance(error, http.client.RemoteDisconnected):
                raise http.client.RemoteDisconnected("the head broke off") from error
            raise
        if lines.ended:
            self.close()
            raise http.client.RemoteDisconnected("the head broke off")


class _Stale(Exception):
    """A connection closed before an answer began."""


class _Exchange:
    """One request and its answer, in a thread of its own.

    Attributes:
        started: whether the thread runs, and so closes the connection in the end.
        kept: whether the connection can be used again.
    """

    def __init__(
        self,
        *,
        server: str,
        path: str,
        headers: dict[str, str],
        landing: Landing,
        request: RangeRequest,
        pooled: _PooledConnection,
        share: Share | None,
    ) -> None:
        self._server = server
        self._request_line = f"GET {path}"
        self._path = path
        self._headers = headers
        self._landing = landing
        self._request = request
        self._pooled = pooled
        self._share = share
        self.started = False
        self.kept = False

    def run(self) -> Answer:
        """Ask, verify and write, and return the head of the answer.

        Raises:
            _Stale: the connection had ended before an answer began.
            NotPlain, WrongPiece, ShardcastError: as for ``Bulk.receive``.
        """
        connection, answered = self._pooled.connection, False
        self.started = True
        try:
            if self._pooled.cancelled:
                raise _Stale
            # The last answer of a connection owns its socket, and is closed here in any case.
            with self._ask(connection) as response:
                assert isinstance(response, _WholeHead)
                answered = True
                answer = Answer(
                    self._server, self._request_line, response.status, response.headers, response.reason
                )
                if (300 <= response.status < 400 and response.status != 304) or response.chunked:
                    raise NotPlain
                self._receive_body(response, answer.check_body(self._landing.shard, self._request))
                self.kept = not response.will_close and response.isclosed()
                return answer
        except ShardcastError:  # LocalDiskError is an OSError, and no server is to blame
            raise
        except MemoryError as error:
            raise LocalLimit.of(error) or error from error
        except TimeoutError as error:
            raise ServerStalled(self._server, f"{self._request_line}: nothing came for too long") from error
        except OSError as error:
            failure = tls_failure_in_thread(self._server, error)
            raise failure or broken_error(self._server, self._request_line, answered, error) from error
        except (http.client.HTTPException, ValueError) as error:
            raise BadAnswer(
                self._server, f"{self._request_line}: that is no usable answer ({error})"
            ) from error
        finally:
            if not self.kept or self._pooled.cancelled:  # `receive` has left it, and will not close it
                connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        """Send the request, and return the answer with its head.

        Raises:
            _Stale: the connection had ended before.
        """
        try:
            if isinstance(connection.sock, ssl.SSLSocket):
                connection.sock.do_handshake()
            try:
                connection.request("GET", self._path, headers=self._headers)
            except BaseException as error:
                if has_secret(self._headers) and error.__traceback__:
                    clear_locals(error.__traceback__.tb_next)  # http.client has the head in variables
                raise
            return connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            raise _Stale from error

    def _receive_body(self, response: _WholeHead, skip: int) -> None:
        """Receive, verify and write the body, after ``skip`` unwanted bytes.

        The size of a read follows the speed. A fast body fills the buffer before verification and writing; a
        slow one lands piece by piece, for the sake of readers here.
        """
        request, piece_size = self._request, self._landing.piece_size
        buffer = receive_buffer(piece_size)
        start, filled, read_size = request.start, 0, _MIN_READ
        while skip and not self._pooled.cancelled:
            room = self._take_turn(min(skip, len(buffer)), skip)
            if room:
                count = response.readinto(buffer[:room])
                self._check_came(count, skip)
                skip -= count
        while start < request.end and not self._pooled.cancelled:
            room = min(len(buffer) - filled, read_size, max(0, request.end - start - filled))
            if read_size <= piece_size:  # bytes come slowly: a piece lands as soon as its last one is here
                room = min(room, piece_size - filled % piece_size)
            started = time.perf_counter()
            room = self._take_turn(room, request.end - start - filled)
            count = response.readinto(buffer[filled : filled + room]) if room else 0
            seconds = time.perf_counter() - started
            filled += count
            response.read_late(self._share is None and 0 < count < _FAST_RATE * seconds)
            end = request.end  # it falls when another connection takes the rest over; read it once a round
            if room and not count:
                self._write(start, buffer[: filled - filled % piece_size])
                self._check_came(count, end - start - filled)
            request.received += count
            read_size = _next_read_size(read_size, seconds, piece_size)
            whole = filled if start + filled >= end else filled - filled % piece_size
            whole = max(0, min(whole, end - start))
            slow = seconds > _FAST or read_size <= piece_size
            if whole and (filled == len(buffer) or start + filled >= end or slow):
                self._write(start, buffer[:whole])
                start, filled = start + whole, filled - whole
                buffer[:filled] = buffer[whole : whole + filled]

    def _take_turn(self, room: int, left: int) -> int:
        """Return how many of the next ``room`` bytes may be read, after a wait for the download limit.

        ``left`` bytes are to come in all. None may be read once the request was cancelled.
        """
        if self._share is None or room <= 0:
            return room
        self._request.writing = True  # the server is not to blame
        room = self._share.take_in_thread(room, max(room, left), self._pooled.ended)
        self._request.writing = False
        return room

    def _check_came(self, count: int, missing: int) -> None:
        """Raise BadAnswer when a read brought no bytes although some are ``missing``."""
        if not count:
            raise BadAnswer(self._server, f"{self._request_line}: it ended {missing} bytes too early")

    def _write(self, start: int, data: memoryview) -> None:
        if data:
            self._request.writing = True
            self._landing.land_in_thread(start, data)
            self._request.writing = False


def _next_read_size(size: int, seconds: float, piece_size: int) -> int:
    """Return the bytes of the next read, after one of ``size`` bytes took so many seconds."""
    if seconds < _FAST or (seconds < _PIECE_SECONDS and 2 * size <= piece_size):
        return min(size * 2, BUFFER_SIZE)
    return max(size // 2, _MIN_READ) if seconds > _SLOW else size
