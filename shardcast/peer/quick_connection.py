"""One connection for small requests: the answers' heads, and their bodies in the caller's buffers."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable
from typing import cast

from shardcast.errors import BadAnswer, ServerStalled, ShardcastError
from shardcast.peer.bulk import NotPlain
from shardcast.peer.failures import broken_error
from shardcast.peer.late_reads import CAN_WAIT, unread_bytes
from shardcast.peer.pace import PORTION

_MAX_HEAD = 16 << 10
"""Bytes of a head; those of shardcast nodes have some 400."""
_MAX_INFORMATIONAL = 10
"""Informational answers (1xx) before the answer itself."""
_MAX_DRAINED = 64 << 10
"""Maximum bytes of a body to read and drop for the sake of the connection."""
_MIN_READ, _MAX_WAIT = 16 << 10, 256 << 10
"""Bytes of a body from which on the loop is woken only with all of them present, and the maximum to wait for.
"""
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([0-9]{3})(?: ([^\r\n]*))?")
_NO_BODY = frozenset({204, 304})


class StaleConnection(Exception):
    """A connection closed before an answer began."""


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


class QuickConnection(asyncio.BufferedProtocol):
    """A connection for a single request at a time."""

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
        self._sock: socket.socket | None = None
        self._woken_at = 1
        self._unread = 0

    @property
    def is_usable(self) -> bool:
        """Whether another request can go over the connection."""
        transport, answer = self._transport, self._answer
        return answer is not None and answer.keeps and transport is not None and not transport.is_closing()

    def start_request(self, name: str, place: Place) -> asyncio.Future[QuickHead]:
        """Expect the answer to a request, with its body in ``place``; return the future of its head."""
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
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no asyncio.Transport
        if CAN_WAIT and transport.get_extra_info("sslcontext") is None:
            self._sock = transport.get_extra_info("socket")

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._target[self._filled :] if self._filled < len(self._target) else memoryview(bytearray(1))

    def buffer_updated(self, nbytes: int) -> None:
        """Read the head or count the body in received bytes; a fault fails the request."""
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
        """Fail the unfinished request: with ``StaleConnection`` before any byte of an answer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._whole is None or self._whole.done():
            return
        if self._answer is None and not self._filled:
            stale = StaleConnection()
            stale.__cause__ = error if isinstance(error, ssl.SSLError) else None
            self._whole.set_exception(stale)
        else:
            answered = self._answer is not None
            self._whole.set_exception(broken_error(self._server, self._name, answered, error))

    # The answer

    def _take_head(self, before: int) -> None:
        """Look for the end of the head in the received bytes, and begin the body.

        Raises:
            ValueError: the head is too long, malformed, or tells another length than the caller's buffer.
            NotPlain: the wanted body has no length.
        """
        end = self._head.find(b"\r\n\r\n", max(0, before - 3), self._filled)
        if end < 0:
            if self._filled == _MAX_HEAD:
                raise ValueError("the head is too long")
            return
        head, rest = QuickHead(bytes(self._head_view[:end])), self._filled - end - 4
        if 100 <= head.status < 200:
            self._informational += 1
            if head.status == 101:
                raise ValueError("status 101, though no other protocol was asked for")
            if self._informational > _MAX_INFORMATIONAL:
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
        """Count received bytes of the body: each 64 KiB move the deadline, the last one ends the request."""
        if self._filled == len(self._target):
            self._finish()
            return
        self._wake_at(len(self._target) - self._filled)  # never for more than what is to come
        self._left -= count
        if self._left <= 0:
            self._left = PORTION
            self._due = self._loop.time() + self._timeout

    def _wake_at(self, count: int) -> None:
        """Have the loop woken with so many bytes, or at the end of the connection.

        A slow link brings a piece in some 20 segments, each with a wake-up of the process.
        """
        at_least = min(count, _MAX_WAIT) if count > _MIN_READ else 1
        if self._sock is not None and at_least != self._woken_at:
            self._woken_at, self._unread = at_least, 0
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, at_least)

    def _has_more(self) -> bool:
        """Return whether enough bytes came since the last look, and wait in the system."""
        if self._sock is None or self._woken_at == 1:
            return False
        before, self._unread = self._unread, unread_bytes(self._sock)
        return self._unread - before >= PORTION

    def _finish(self) -> None:
        """End the request with its head; its buffer is the caller's alone again."""
        self._wake_at(0)
        if self._whole is not None and self._answer is not None:
            self._whole.set_result(self._answer)
        self._target, self._filled = self._head_view[:0], 0  # the caller's buffer is its own again

    def _fail(self, error: Exception) -> None:
        """Fail the request, and break the connection."""
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(error)
        self.abort()

    def _check_time(self) -> None:
        """Fail a request with a late answer; look again at its deadline."""
        self._timer = None
        if self._whole is None or self._whole.done():
            return
        if self._loop.time() >= self._due and self._answer is not None and self._has_more():
            self._due = self._loop.time() + self._timeout
        if self._loop.time() >= self._due:
            what = "no whole head of an answer" if self._answer is None else "too little"
            self._fail(ServerStalled(self._server, f"{self._name}: {what} came within {self._timeout:g} s"))
        else:
            self._timer = self._loop.call_at(self._due, self._check_time)
