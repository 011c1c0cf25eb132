"""Requests to one server over kept connections, from any thread, each with bounded time and memory."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from shardcast.access.tls import ClientTls
from shardcast.digest import Buffer
from shardcast.errors import BadAnswer, CannotAsk, LocalLimit, PeerError, ServerStalled, ServerUnreachable
from shardcast.plain_text import one_line

CONNECT_SECONDS = 20.0
"""Seconds to connect, TLS included."""
ANSWER_SECONDS = 300.0
"""Seconds for a whole request and its answer, unless a call allows more."""
_SILENT_SECONDS = 120.0
"""Maximum seconds without a byte in either direction."""
_ABORTED = "the command ended meanwhile"
_READ = 8 << 20
"""Bytes read at once: the range of a pack arrives in one piece, and is not copied into another."""

Body = Sequence[Buffer]
"""The body of a request, in parts; sent again at each retry."""


@dataclass(frozen=True, slots=True)
class BackupAnswer:
    """The answer to a request.

    Attributes:
        status: such as 200.
        reason: the phrase after the status, made safe to show.
        headers: of the answer.
        body: the bytes.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class KeptConnections:
    """Connections to one server; a request takes a free one, or makes another.

    Attributes:
        server: the URL of the server.
    """

    def __init__(self, server: str, headers: Mapping[str, str], tls: ClientTls) -> None:
        """Connect to nothing yet.

        Args:
            server: base URL.
            headers: of every request.
            tls: the TLS of https connections.

        Raises:
            UsageError, LocalDiskError: a file of the TLS can't be used.
        """
        self.server = server
        self._url = urlsplit(server)
        self._headers = dict(headers)
        self._context = tls.load() if self._url.scheme == "https" else None
        self._free: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._aborted = threading.Event()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def abort(self) -> None:
        """Cut off all requests under way, and refuse further ones: their results are not needed any more."""
        self._aborted.set()
        with self._lock:
            busy = list(self._busy)
        for connection in busy:
            _shut_down(connection)

    def pause(self, seconds: float) -> None:
        """Wait, at most until the requests are aborted."""
        self._aborted.wait(seconds)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Body = (),
        headers: Mapping[str, str] | None = None,
        max_answer: int,
        seconds: float = ANSWER_SECONDS,
    ) -> BackupAnswer:
        """Send a request, and return the answer with any status.

        The server may have closed a kept connection meanwhile: then the request is sent once more over a new
        one.

        Args:
            method: of the request.
            path: below the server's URL.
            body: of the request.
            headers: beside those of every request.
            max_answer: maximum bytes of the answer.
            seconds: maximum for request and answer together.

        Raises:
            PeerError: there is no connection, or no whole answer in time.
        """
        request = f"{method} {path}"
        sent = {**self._headers, **(headers or {}), "Content-Length": str(sum(map(len, body)))}

        def exchange(connection: http.client.HTTPConnection) -> BackupAnswer:
            answer = _exchange(connection, method, self._url.path + path, body, sent, max_answer)
            if answer is None:
                raise BadAnswer(self.server, f"{request}: the answer has more than {max_answer} bytes")
            return answer

        with self._lock:
            kept = self._free.pop() if self._free else None
        if kept is not None:
            try:
                return self._timed(exchange, kept, request, seconds)
            except ServerUnreachable:
                pass
        return self._timed(exchange, self._connect(), request, seconds)

    def _connect(self) -> http.client.HTTPConnection:
        """Return a new connection object; the first request opens the socket."""
        host, port = self._url.hostname or "", self._url.port
        if self._context is not None:
            return http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)

    def _timed(
        self,
        exchange: Callable[[http.client.HTTPConnection], BackupAnswer],
        connection: http.client.HTTPConnection,
        request: str,
        seconds: float,
    ) -> BackupAnswer:
        """Run an exchange with a time limit in seconds, and keep a reusable connection."""
        late = threading.Event()

        def cut_off() -> None:
            late.set()
            _shut_down(connection)

        timer = threading.Timer(seconds, cut_off)
        timer.daemon = True
        connected = connection.sock is not None
        with self._lock:
            self._busy.add(connection)
        try:
            self._check_aborted(request)
            timer.start()
            if not connected:
                _connect(connection)
                connected = True
                self._check_aborted(request)  # abort() can't shut down what has no socket yet
            answer = exchange(connection)
        except (OSError, http.client.HTTPException, ValueError, RuntimeError) as error:
            connection.close()
            raise self._failure(error, request, late.is_set(), connected) from error
        except BaseException:
            connection.close()
            raise
        finally:
            timer.cancel()
            with self._lock:
                self._busy.discard(connection)
        if connection.sock is not None:
            with self._lock:
                self._free.append(connection)
        return answer

    def _check_aborted(self, request: str) -> None:
        """Check that requests were not aborted.

        Raises:
            CannotAsk: the requests were aborted.
        """
        if self._aborted.is_set():
            raise CannotAsk(self.server, f"{request}: {_ABORTED}")

    def _failure(self, error: Exception, request: str, late: bool, connected: bool) -> PeerError:
        """Return the error of a request without an answer."""
        if self._aborted.is_set():
            return CannotAsk(self.server, f"{request}: {_ABORTED}")
        if late or isinstance(error, TimeoutError):
            no_connection = "no connection in time; check the server's address and the network"
            text = "no whole answer in time" if connected else no_connection
            return ServerStalled(self.server, f"{request}: {text}")
        if limit := LocalLimit.of(error):
            return CannotAsk(self.server, str(limit))
        if isinstance(error, ssl.SSLError):
            from shardcast.peer.tls_failures import tls_failure_in_thread  # takes 0.2 s to import

            if failure := tls_failure_in_thread(self.server, error):
                return failure
        if isinstance(error, http.client.IncompleteRead):
            return BadAnswer(self.server, f"{request}: the answer was cut off; try again")
        if isinstance(error, http.client.LineTooLong | ValueError):
            return BadAnswer(self.server, f"{request}: {one_line(str(error), 200)}")
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or repr(error)
        return ServerUnreachable(self.server, f"{request}: {one_line(text, 200)}")


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Body,
    headers: Mapping[str, str],
    max_answer: int,
) -> BackupAnswer | None:
    """Send a request, and return the answer; None for an answer over the limit."""
    try:
        connection.request(method, path, body, headers)
    except (BrokenPipeError, ConnectionResetError):
        if connection.sock is None:
            raise
        # A server that refuses a request closes before reading the body: the answer may still have arrived.
    response = connection.getresponse()
    body_bytes = _read(response, max_answer)
    if body_bytes is None:
        connection.close()
        return None
    found = {name.title(): value for name, value in response.getheaders()}
    return BackupAnswer(response.status, one_line(response.reason, 80), found, body_bytes)


def _read(response: http.client.HTTPResponse, max_answer: int) -> bytes | None:
    """Return the body of an answer; None for a body over the limit."""
    parts, size = [], 0
    while part := response.read(min(_READ, max_answer + 1 - size)):
        parts.append(part)
        size += len(part)
        if size > max_answer:
            return None
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


def _connect(connection: http.client.HTTPConnection) -> None:
    """Connect, and bound the silence of the server from now on.

    Raises:
        OSError: there is no connection.
    """
    connection.connect()
    connection.sock.settimeout(_SILENT_SECONDS)


def _shut_down(connection: http.client.HTTPConnection) -> None:
    """Shut down a connection on which another thread is waiting."""
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)
