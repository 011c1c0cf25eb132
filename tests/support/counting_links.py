"""A link to a server that counts what the server sends through it: headers, lists and payloads alike."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

_CHUNK = 1 << 18


class CountingLink:
    """A way to a server, at a port of its own.

    Attributes:
        url: base URL of the server through this link.
        sent: bytes that the server sent so far.
    """

    def __init__(self, port: int) -> None:
        """Lead to a port of 127.0.0.1."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        self._to = port
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        """Pass bytes between a client and the server until one of them has closed."""
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            asking = threading.Thread(target=self._pour, args=(client, server, False), daemon=True)
            asking.start()
            self._pour(server, client, True)
            asking.join()

    def _pour(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if counted:
                    with self._lock:
                        self.sent += len(data)
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def counting_link(port: int) -> Iterator[CountingLink]:
    """Open a link to a port of 127.0.0.1 while the block runs."""
    link = CountingLink(port)
    try:
        yield link
    finally:
        link.close()
