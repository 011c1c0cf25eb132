"""Answers to requests by ``http.client``, with heads and lines bounded in time and in bytes.

For blocking code: the threads that receive shards, and the commands that ask the node of a data directory.
The latter load no aiohttp, which would take half the time until the request.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from shardcast.peer.late_reads import LateReads

MAX_HEAD = 256 * 1024
"""Bytes of a head, including the informational answers (1xx) before it."""
MAX_CONTROL_LINE = 1 << 20
"""Bytes of a line from the socket of a data directory."""


class _Source(io.RawIOBase):
    """The bytes received by a socket; within ``bounded``, of limited time and number.

    Attributes:
        late: the reads with a late wake-up of their thread.
        is_late: whether reads into large buffers are late.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline: float | None = None
        self._left = 0
        self._bounded = False
        self.late = LateReads(sock)
        self.is_late = False

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a buffered reader, as a socket does."""
        return io.BufferedReader(self)

    @contextmanager
    def bounded(self, max_bytes: int, what: str) -> Iterator[None]:
        """Bound all reads in this block by the time-out of the socket, and by ``max_bytes``.

        Raises:
            TimeoutError: ``what`` took too long. http.client.HTTPException: ``what`` is too long.
        """
        silence = self._sock.gettimeout()
        self._deadline = None if silence is None else time.monotonic() + silence
        self._left, self._bounded, self._what = max_bytes, True, what
        try:
            yield
        finally:
            self._bounded = False
            if self._deadline is not None:
                self._sock.settimeout(silence)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Receive bytes into a buffer, within the bounds of the block."""
        if self._bounded:
            if self._left <= 0:
                raise http.client.HTTPException(f"{self._what} is too long")
            if self._deadline is not None:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self._what} took too long")
                self._sock.settimeout(left)
        if (
            isinstance(self._sock, ssl.SSLSocket)
            and len(buffer) > io.DEFAULT_BUFFER_SIZE
            and not self._bounded
        ):
            return _fill(self._sock, memoryview(buffer))  # the caller's own buffer, which must be full
        if self.is_late and len(buffer) > io.DEFAULT_BUFFER_SIZE and not self._bounded:
            return self.late.read_into(memoryview(buffer))
        self.late.end()
        count = self._raw.readinto(buffer)
        if self._bounded:
            self._left -= count or 0
        return count

    def close(self) -> None:
        """Close the reader; the socket is its connection's."""
        self._raw.close()
        super().close()


def _fill(sock: ssl.SSLSocket, buffer: memoryview) -> int:
    """Receive until a buffer is full or the connection ends, and return the number of bytes.

    TLS gives a record of 16 KiB at a time. The readers above this one would ask for each of them through
    three more calls, at the cost of a decryption.
    """
    filled, size = 0, len(buffer)
    while filled < size:
        count = sock.read(size - filled, buffer[filled:])
        if not count:
            break
        filled += int(count)
    return filled


class BoundedResponse(http.client.HTTPResponse):
    """An answer whose head, and each of its ``lines``, must be whole within the socket's time-out."""

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        self._source = _Source(sock)
        super().__init__(cast(socket.socket, self._source), debuglevel, method, url)

    def begin(self) -> None:
        """Read the head.

        Raises:
            TimeoutError: the head was not whole in time.
            http.client.HTTPException: the head is too long, or no head.
        """
        with self._source.bounded(MAX_HEAD, "the head"):
            super().begin()

    def read_late(self, is_late: bool) -> None:
        """Have the next reads of the body wake their thread only with all bytes present, where possible."""
        self._source.is_late = is_late and self._source.late.can_be

    def text(self, max_bytes: int) -> str:
        """Return the beginning of the body as text.

        Raises:
            TimeoutError: the text was late.
        """
        with self._source.bounded(max_bytes + io.DEFAULT_BUFFER_SIZE, "the answer"):
            return self.read(max_bytes).decode(errors="replace").strip()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the body.

        A time-out set on the socket meanwhile counts from the next line on.

        Raises:
            TimeoutError: a line was not whole in time. http.client.HTTPException: a line is too long.
        """
        while True:
            with self._source.bounded(MAX_CONTROL_LINE, "a line"):
                line = self.readline(MAX_CONTROL_LINE)
            if not line:
                return
            yield line


class Connection(http.client.HTTPConnection):
    """A plain connection with bounded answers.

    Prints no request, whatever ``http.client.HTTPConnection.debuglevel`` says: requests can show tokens.
    """

    debuglevel = 0
    response_class = BoundedResponse

    def answer(self) -> BoundedResponse:
        """Return the answer to the request on its way."""
        response = self.getresponse()
        assert isinstance(response, BoundedResponse)
        return response


class SecureConnection(http.client.HTTPSConnection):
    """A TLS connection with bounded answers, which prints no request either."""

    debuglevel = 0
    response_class = BoundedResponse
