"""The orderly end of a connection: what was sent arrives, although the other end may be sending still."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_SECONDS = 10.0
"""Seconds that the other end has to close the connection too."""
_DISCARD_SIZE = 64 << 10
"""Bytes discarded at a time."""


class OrderlyClose:
    """A non-blocking socket that is closed once the other end has closed it too, or has had its time.

    Received bytes that are not read would turn a close into a reset, which destroys what is on its way.
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
        """Discard what has come, and close at the end."""
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
