"""The head of an answer: a deadline for all of it, however its bytes come, and a bound on their number.

A time-out between two bytes is none: a server that sends a byte of the head now and then, or ``100
Continue`` again and again, never trips it. ``head`` bounds requests by aiohttp, ``BoundedResponse`` those by
``http.client``.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, cast

import aiohttp

from shardcast.concurrency import cancel
from shardcast.peer.pace import Upload

MAX_HEAD = 256 * 1024
"""Bytes of a head, with the informational answers (1xx) before it."""
MAX_INFORMATIONAL = 100
"""Informational answers before the answer itself, where they are counted one by one."""
MAX_CONTROL_LINE = 1 << 20
"""Bytes of a line that the node of a data directory says."""


class HeadLate(Exception):
    """The head of an answer was not whole in time.

    Attributes:
        seconds: the time that it had.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no whole head of an answer within {seconds:g} s")
        self.seconds = seconds


async def head(
    asking: Coroutine[Any, Any, aiohttp.ClientResponse], seconds: float, upload: Upload | None = None
) -> aiohttp.ClientResponse:
    """Return the answer to a request once its head is whole. The time for it begins with the request, or
    anew with each portion of an ``upload`` that the server takes.

    Raises:
        HeadLate: it did not come in time.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(asking)
    begun = loop.time()
    try:
        while not task.done():
            left = seconds + (upload.begun_before(begun) if upload else begun) - loop.time()
            if left <= 0:
                raise HeadLate(seconds)
            await asyncio.wait([task], timeout=left)
    except BaseException:
        await cancel([task])
        if not task.cancelled() and task.exception() is None:  # it came at this very moment
            task.result().close()
        raise
    return task.result()


class CountedResponse(aiohttp.ClientResponse):
    """An answer of aiohttp before which only so many informational ones may come. A flood of them would keep
    the event loop parsing until the deadline."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        read, left = protocol.read, MAX_INFORMATIONAL + 1

        async def counted() -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise aiohttp.ClientPayloadError(f"more than {MAX_INFORMATIONAL} informational answers")
            return await read()

        protocol.read = counted
        try:
            return await super().start(connection)
        finally:
            del protocol.read


class _Source(io.RawIOBase):
    """What a socket receives; within ``bounded``, in so much time and so many bytes."""

    def __init__(self, plug: socket.socket) -> None:
        self._plug = plug
        self._raw = plug.makefile("rb", buffering=0)
        self._deadline: float | None = None
        self._left = 0
        self._bounded = False

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a reader with a buffer, as a socket does."""
        return io.BufferedReader(self)

    @contextmanager
    def bounded(self, most: int, what: str) -> Iterator[None]:
        """Bound what is read in this block by the time-out of the socket, in all, and by ``most`` bytes.

        Raises:
            TimeoutError: it took too long.
            http.client.HTTPException: it is too much.
        """
        silence = self._plug.gettimeout()
        self._deadline = None if silence is None else time.monotonic() + silence
        self._left, self._bounded, self._what = most, True, what
        try:
            yield
        finally:
            self._bounded = False
            if self._deadline is not None:
                self._plug.settimeout(silence)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._bounded:
            if self._left <= 0:
                raise http.client.HTTPException(f"{self._what} is too long")
            if self._deadline is not None:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self._what} took too long")
                self._plug.settimeout(left)
        count = self._raw.readinto(buffer)
        if self._bounded:
            self._left -= count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class BoundedResponse(http.client.HTTPResponse):
    """An answer whose head comes within the socket's time-out as a whole, and so does each of ``lines``."""

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        self._source = _Source(sock)
        super().__init__(cast(socket.socket, self._source), debuglevel, method, url)

    def begin(self) -> None:
        with self._source.bounded(MAX_HEAD, "the head"):
            super().begin()

    def text(self, most: int) -> str:
        """Return the beginning of the body."""
        with self._source.bounded(most + io.DEFAULT_BUFFER_SIZE, "the answer"):
            return self.read(most).decode(errors="replace").strip()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the body. A time-out that is set on the socket meanwhile counts from the next
        line on."""
        while True:
            with self._source.bounded(MAX_CONTROL_LINE, "a line"):
                line = self.readline(MAX_CONTROL_LINE)
            if not line:
                return
            yield line


class Connection(http.client.HTTPConnection):
    """A connection whose answers are bounded."""

    response_class = BoundedResponse

    def answer(self) -> BoundedResponse:
        """Return the answer to the request that was sent."""
        response = self.getresponse()
        assert isinstance(response, BoundedResponse)
        return response


class SecureConnection(http.client.HTTPSConnection):
    """The same over TLS."""

    response_class = BoundedResponse
