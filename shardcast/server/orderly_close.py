"""The orderly end of a connection: all sent bytes arrive, although the other end may still be sending."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_SECONDS = 10.0
"""Seconds for the other end to close the connection too."""
_DISCARD_SIZE = 64 << 10
"""Bytes discarded at a time."""


class OrderlyClose:
    """A non-blocking socket, closed once the other end has closed it too, or has had its time.

    Received but unread bytes would turn a close into a reset, and destroy the bytes on their way.
    """

    def __init__(self, sock: socket.socket, closed: Callable[[], None]) -> None:
        """Send the end of the connection now; ``closed`` is called once the socket is closed."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._closed = closed
        self._timer = self._loop.call_later(_SECONDS, self._close)
        self._loop.add_reader(sock.fileno(), self._discard)
        try:
            sock.shutdown(socket.SHUT_WR)  # of TLS, too, so that what comes is not decrypted
        except OSError:
            self._close()
        else:
            self._discard()

    def _discard(self) -> None:
        """Discard the received bytes, and close at the end."""
        try:
            if self._sock.recv(_DISCARD_SIZE):
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # it broke, which is an end as well
        self._close()

    def _close(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self._closed()
