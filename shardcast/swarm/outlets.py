"""The sending half of a connection between neighbours: the bytes that can go now, and word when more can.

On plain TCP bytes go straight to the socket, and those of files by sendfile, through a second descriptor of
the socket: the event loop minds writers on its own transports' descriptors, and its own ``sendfile`` stops
reading meanwhile, which would block two ends both sending. Over TLS the transport encrypts.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Callable
from typing import Protocol

_UNSENT = 128 << 10
"""Maximum bytes waiting in the socket ahead of a later small frame. Half as many cost a fifth more CPU for
each piece, since the sender is woken for less."""


class Outlet(Protocol):
    """The sending half of a connection.

    Attributes:
        has_sendfile: whether ``send_file`` can be used.
    """

    has_sendfile: bool

    def send(self, data: bytes | bytearray | memoryview, *, more: bool = False) -> int:
        """Take bytes, and return how many; 0 where there is no room now.

        Args:
            data: the bytes.
            more: whether others follow at once.

        Raises:
            OSError: the connection has ended.
        """

    def send_file(self, file: int, offset: int, count: int) -> int:
        """Take bytes of an open file like ``send``.

        Raises:
            OSError: the connection has ended, or the file has no byte at ``offset``.
        """

    def notify(self, writable: Callable[[], None] | None) -> None:
        """Call a function whenever there is room; None: call none any more."""

    def close(self) -> None:
        """Release the resources of this half alone."""


class SocketOutlet:
    """The sending half of a plain TCP connection."""

    has_sendfile = True

    def __init__(self, sock: socket.socket) -> None:
        """Send through a second descriptor of a connected socket.

        Raises:
            OSError: there are too many open files.
        """
        self._loop = asyncio.get_running_loop()
        self._sock = socket.socket(fileno=os.dup(sock.fileno()))
        self._sock.setblocking(False)
        self._writable: Callable[[], None] | None = None
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)

    def send(self, data: bytes | bytearray | memoryview, *, more: bool = False) -> int:
        """Take bytes, and return how many."""
        try:
            return self._sock.send(data, socket.MSG_MORE if more and sys.platform == "linux" else 0)
        except (BlockingIOError, InterruptedError):
            return 0

    def send_file(self, file: int, offset: int, count: int) -> int:
        """Take bytes of an open file, and return how many."""
        try:
            sent = os.sendfile(self._sock.fileno(), file, offset, count)
        except (BlockingIOError, InterruptedError):
            return 0
        if not sent:
            raise FileCut(f"the file ends at byte {offset}")
        return sent

    def notify(self, writable: Callable[[], None] | None) -> None:
        """Call a function whenever there is room."""
        if writable is not None and self._writable is None:
            self._loop.add_writer(self._sock.fileno(), writable)
        elif writable is None and self._writable is not None:
            self._loop.remove_writer(self._sock.fileno())
        self._writable = writable

    def waiting(self) -> int:
        """Return the number of received, unread bytes."""
        return int.from_bytes(fcntl.ioctl(self._sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)

    def wake_at(self, count: int) -> None:
        """Have the loop woken only once so many bytes have come, or the connection has ended."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def close(self) -> None:
        """Close the second descriptor."""
        if self._sock.fileno() >= 0:
            self.notify(None)
            self._sock.close()


class TransportOutlet:
    """The sending half of a connection whose transport changes the bytes (TLS)."""

    has_sendfile = False

    def __init__(self, transport: asyncio.Transport) -> None:
        """Send through a transport."""
        self._transport = transport
        self._writable: Callable[[], None] | None = None
        self._is_full = False
        transport.set_write_buffer_limits(_UNSENT)

    def send(self, data: bytes | bytearray | memoryview, *, more: bool = False) -> int:
        """Take bytes, and return how many."""
        if self._transport.is_closing():
            raise ConnectionResetError("the connection has ended")
        if self._is_full:
            return 0
        self._transport.write(bytes(data))
        return len(data)

    def send_file(self, file: int, offset: int, count: int) -> int:
        """Refuse: there is no sendfile."""
        raise NotImplementedError("no sendfile over TLS")

    def notify(self, writable: Callable[[], None] | None) -> None:
        """Call a function whenever there is room."""
        self._writable = writable

    def set_full(self, is_full: bool) -> None:
        """Record that the transport's buffer is full, or has room again."""
        self._is_full = is_full
        if not is_full and self._writable:
            self._writable()

    def close(self) -> None:
        """Call no function any more."""
        self._writable = None


class FileCut(OSError):
    """A file shorter than before."""
