"""Reads from a plain connection with one wake-up of their thread for all bytes, not for each segment.

A slow link brings a piece in some 20 segments. A wake-up for each of them cost a receiver more than all its
work on the piece. Over loopback, with its large segments, a sender would wait for a timer instead.
"""

from __future__ import annotations

import fcntl
import ipaddress
import select
import socket
import ssl
import sys
import termios
import time
from array import array

CAN_WAIT = sys.platform == "linux"
"""Whether the system wakes a process only once so many bytes are there, also in a poll (tcp(7))."""
_LOOK_MS = 250
"""Milliseconds after which received bytes are read although others are missing: they are progress, the mark
of a server without a stall."""


def unread_bytes(sock: socket.socket) -> int:
    """Return the number of received but unread bytes; Linux only."""
    count = array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    return count[0]


class LateReads:
    """The reads of one answer, while they are slow.

    Attributes:
        can_be: whether the connection can be read so.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Read from a connected socket."""
        self._sock = sock
        self.can_be = self._fits(sock)
        # An earlier answer over the connection may have left it at any number.
        self._woken_at = 0 if self.can_be else 1
        self._poll: select.poll | None = None

    @staticmethod
    def _fits(sock: socket.socket) -> bool:
        """Return whether a connection can be read so: plain TCP to another machine."""
        if (
            not CAN_WAIT
            or isinstance(sock, ssl.SSLSocket)
            or sock.family not in (socket.AF_INET, socket.AF_INET6)
        ):
            return False
        try:
            host = sock.getpeername()[0]
        except OSError:  # the server has closed the connection; its reader will say so
            return False
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        return not mapped.is_loopback

    def read_into(self, buffer: memoryview) -> int:
        """Receive until a buffer is full; after a moment, or at the connection's end, the bytes so far.

        Raises:
            TimeoutError: nothing came within the time-out of the socket.
            OSError: the connection broke.
        """
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._sock, select.POLLIN)
        silence = self._sock.gettimeout()
        deadline = None if silence is None else time.monotonic() + silence
        self._wake_at(len(buffer))
        while not self._poll.poll(_LOOK_MS):
            if unread_bytes(self._sock):
                self._wake_at(1)
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError("timed out")
        return self._sock.recv_into(buffer)

    def end(self) -> None:
        """Have the thread woken for each byte again."""
        self._wake_at(1)

    def _wake_at(self, count: int) -> None:
        """Have the thread woken once so many bytes have come, or the connection has ended."""
        if count != self._woken_at:
            self._woken_at = count
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
