"""A range of a shard from a plain answer into its landing, at the speed of the machine.

A thread for each answer receives into a buffer, verifies and writes it: three calls that let go of the
interpreter, and no byte is copied in between. What is not plain (a redirect, a chunked answer, a proxy) is
handed over to aiohttp.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from shardcast.concurrency import Threads
from shardcast.errors import BadAnswer, LocalLimit, ServerStalled, ServerUnreachable, ShardcastError
from shardcast.peer.connecting import Place, connect
from shardcast.peer.failures import broken_error
from shardcast.peer.heads import BoundedResponse, Connection, SecureConnection
from shardcast.peer.pouring import BUFFER_SIZE, receive_buffer
from shardcast.peer.redirects import proxy_of
from shardcast.peer.requests import Answer, RangeRequest
from shardcast.store.landing import Landing

_LEAST_READ = 16 * 1024
"""Bytes waited for at once where they come slowly, so that slowness is told from silence."""
_FAST, _SLOW = 0.005, 0.05
"""Seconds for one read, below which the next one is larger, and above which it is smaller."""


class HandOver(Exception):
    """This answer is for aiohttp."""


@dataclass(eq=False)
class _Line:
    """A connection, and whether who waits for its answer has given up."""

    connection: http.client.HTTPConnection
    fresh: bool
    cut: bool = False

    def cut_off(self) -> None:
        """End it, whatever its thread is waiting for."""
        self.cut = True
        if self.connection.sock:
            try:
                self.connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it ended by itself meanwhile


class Bulk:
    """Plain answers from one server, over connections that are kept and used again."""

    def __init__(self, server: str, threads: Threads, timeout: float) -> None:
        """``timeout``: seconds without a byte."""
        self._server = server
        self._url: SplitResult = urlsplit(server)
        self._threads = threads
        self._timeout = timeout
        self._idle: deque[_Line] = deque()
        self._place: Place | None = None
        self.direct = proxy_of(server) is None

    async def receive(
        self, path: str, headers: dict[str, str], landing: Landing, order: RangeRequest
    ) -> Answer:
        """Ask, verify and write. What landed before an error stays.

        Raises:
            HandOver: the answer is not plain; nothing was taken of it.
            WrongPiece: a piece was wrong.
            ServerUnreachable, ServerStalled, ServerLacks, BadAnswer: as their names say.
            LocalDiskError: it can't be written.
        """
        while True:
            line = self._idle.pop() if self._idle else await self._connect()
            reused, line.fresh = not line.fresh, False
            work = _Work(self._server, self._url.path + path, headers, landing, order, line)
            try:
                answer = await landing.in_thread(work.carry_out, executor=self._threads)
            except _Stale:
                if reused:
                    continue  # the server had closed it meanwhile; ask again
                raise broken_error(self._server, f"GET {path}", answered=False) from None
            except LocalLimit:  # it has no thread; should one come to it later, it finds the connection cut
                line.cut_off()
                line.connection.close()
                raise
            except asyncio.CancelledError:
                line.cut_off()
                # It never begins where the threads are at their end, or has just ended well.
                if not work.begun or work.kept:
                    line.connection.close()
                raise
            if work.kept:
                self._idle.append(line)
            return answer

    async def _connect(self) -> _Line:
        host, port = self._url.hostname or "", self._url.port or 80
        try:
            plug, self._place = await connect(host, port, self._place)
        except ShardcastError:
            raise
        except OSError as error:
            if limit := LocalLimit.of(error):
                raise limit from error
            raise ServerUnreachable(self._server, f"no connection ({error.strerror or error})") from error
        plug.settimeout(self._timeout)
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Line(self._over(plug, host, port), fresh=True)

    def _over(self, plug: socket.socket, host: str, port: int) -> http.client.HTTPConnection:
        if self._url.scheme == "https":
            connection: http.client.HTTPConnection = SecureConnection(host, port)
            plug = ssl.create_default_context().wrap_socket(
                plug, server_hostname=host, do_handshake_on_connect=False
            )
        else:
            connection = Connection(host, port)
        connection.response_class = _WholeHead
        connection.sock = plug
        return connection

    def close(self) -> None:
        """Close the connections that are idle."""
        while self._idle:
            self._idle.pop().connection.close()


class _Lines(io.BufferedReader):
    """A connection's bytes; ``ended``: whether the last line that was read has no end."""

    ended = False

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.ended = not line.endswith(b"\n")
        return line


class _WholeHead(BoundedResponse):
    """An answer whose head must be whole; http.client takes the end of the connection for the head's."""

    def begin(self) -> None:
        assert isinstance(self.fp, io.BufferedReader)
        self.fp = lines = _Lines(self.fp.detach())
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
    """The connection had ended before an answer began."""


class _Work:
    """One answer, in a thread of its own."""

    def __init__(
        self,
        server: str,
        path: str,
        headers: dict[str, str],
        landing: Landing,
        order: RangeRequest,
        line: _Line,
    ) -> None:
        self._server = server
        self._request = f"GET {path}"
        self._path = path
        self._headers = headers
        self._landing = landing
        self._order = order
        self._line = line
        self.begun = False
        self.kept = False

    def carry_out(self) -> Answer:
        connection, answered = self._line.connection, False
        self.begun = True
        try:
            if self._line.cut:
                raise _Stale
            with self._ask(
                connection
            ) as response:  # an answer that is the last of its connection has its socket
                answered = True
                answer = Answer(
                    self._server, self._request, response.status, response.headers, response.reason
                )
                if (300 <= response.status < 400 and response.status != 304) or response.chunked:
                    raise HandOver
                self._pour(response, answer.check_body(self._landing.shard, self._order))
                self.kept = not response.will_close and response.isclosed()
                return answer
        except ShardcastError:  # LocalDiskError is an OSError: no server is to blame for it
            raise
        except MemoryError as error:
            raise LocalLimit.of(error) or error from error
        except TimeoutError as error:
            raise ServerStalled(self._server, f"{self._request}: nothing came for too long") from error
        except OSError as error:
            raise broken_error(self._server, self._request, answered, error) from error
        except (http.client.HTTPException, ValueError) as error:
            raise BadAnswer(self._server, f"{self._request}: that is no usable answer ({error})") from error
        finally:
            if not self.kept or self._line.cut:  # nobody waits for it, and nobody else closes it
                connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        try:
            if isinstance(connection.sock, ssl.SSLSocket):
                connection.sock.do_handshake()
            connection.request("GET", self._path, headers=self._headers)
            return connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            raise _Stale from error

    def _pour(self, response: http.client.HTTPResponse, skip: int) -> None:
        order, piece_size = self._order, self._landing.piece_size
        buffer = receive_buffer(piece_size)
        start, filled, read_size = order.start, 0, _LEAST_READ
        while skip and not self._line.cut:
            count = response.readinto(buffer[: min(skip, len(buffer))])
            self._count(count, skip)
            skip -= count
        while start < order.end and not self._line.cut:
            room = min(len(buffer) - filled, read_size, max(0, order.end - start - filled))
            if read_size <= piece_size:  # bytes come slowly: a piece counts when its last one is here
                room = min(room, piece_size - filled % piece_size)
            begun = time.perf_counter()
            count = response.readinto(buffer[filled : filled + room]) if room else 0
            seconds = time.perf_counter() - begun
            filled += count
            end = order.end  # it may have come nearer: another connection took the rest over
            if room and not count:
                self._land(start, buffer[: filled - filled % piece_size])
                self._count(count, end - start - filled)
            order.received += count
            read_size = _next_read_size(read_size, seconds)
            whole = filled if start + filled >= end else filled - filled % piece_size
            whole = max(0, min(whole, end - start))
            slow = seconds > _FAST or read_size <= piece_size
            if whole and (filled == len(buffer) or start + filled >= end or slow):
                self._land(start, buffer[:whole])
                start, filled = start + whole, filled - whole
                buffer[:filled] = buffer[whole : whole + filled]

    def _count(self, count: int, missing: int) -> None:
        if not count:
            raise BadAnswer(self._server, f"{self._request}: it ended {missing} bytes too early")

    def _land(self, start: int, data: memoryview) -> None:
        if data:
            self._order.landing = True
            self._landing.land_here(start, data)
            self._order.landing = False


def _next_read_size(size: int, seconds: float) -> int:
    if seconds < _FAST:
        return min(size * 2, BUFFER_SIZE)
    return max(size // 2, _LEAST_READ) if seconds > _SLOW else size
