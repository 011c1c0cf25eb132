"""Take pieces by Range requests over kept connections: ``HOW URLS CONNECTIONS COUNT PIECES MANIFEST OUTPUT``.

HOW is ``asyncio`` or ``threads``; each connection, in turn to one of the URLs of a shard, has one request
out, for so many PIECES. With PIECES 0 it sends COUNT requests for no bytes (HEAD). Prints its CPU seconds as
JSON.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from carrier_work import PIECE, Work

how, urls, connections, count, pieces, manifest, output = sys.argv[1:]
addresses = [urlsplit(url) for url in urls.split(",")]
work = Work(manifest, output, int(count))
ranges: Iterator[tuple[int, int]] = work.todo(int(pieces) or work.each)
asking = threading.Lock()
HEADS = pieces == "0"
ROOM = 4096
"""Bytes beside a piece in a buffer: the head of an answer."""


class Exchange:
    """One connection's requests and answers, without the connection."""

    def __init__(self, address: SplitResult) -> None:
        """Ask at an address."""
        self._address = address
        self.buffer = memoryview(bytearray(PIECE + ROOM))
        self._filled = self._left = self._index = 0

    def request(self) -> bytes:
        """Return the next request."""
        with asking:
            first, number = next(ranges)
        self._index, self._left, self._filled = first, number * PIECE, 0
        if HEADS:
            work.left -= 1
        return (
            f"{'HEAD' if HEADS else 'GET'} {self._address.path} HTTP/1.1\r\nHost: {self._address.netloc}\r\n"
            f"Range: bytes={first * PIECE}-{(first + number) * PIECE - 1}\r\n"
            "Accept-Encoding: identity\r\n\r\n"
        ).encode()

    def room(self) -> memoryview:
        """Return where the next bytes go: a head and the first piece, or the rest of a piece."""
        return self.buffer[self._filled :] if self._in_head else self.buffer[self._filled : PIECE]

    _in_head = True

    def received(self, size: int) -> bool:
        """Take bytes that came; return whether the answer is whole."""
        self._filled += size
        if self._in_head:
            end = self.buffer.obj.find(b"\r\n\r\n", 0, self._filled) + 4  # type: ignore[attr-defined]
            if end < 4:
                return False
            if not self.buffer.obj.startswith(b"HTTP/1.1 206"):  # type: ignore[attr-defined]
                sys.exit(bytes(self.buffer[:end]).decode())
            if HEADS:
                return True
            self._in_head = False
            rest = self._filled - end
            self.buffer[:rest] = self.buffer[end : self._filled]
            self._filled = rest
        if self._filled >= PIECE:
            work.take(self._index, self.buffer[:PIECE])
            rest = self._filled - PIECE
            self.buffer[:rest] = self.buffer[PIECE : self._filled]
            self._index, self._filled, self._left = self._index + 1, rest, self._left - PIECE
        self._in_head = not self._left
        return not self._left


class Reader(asyncio.BufferedProtocol):
    """A connection on an event loop."""

    def __init__(self, exchange: Exchange, done: asyncio.Event) -> None:
        """Set ``done`` once all pieces are there."""
        self._exchange, self._done = exchange, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._exchange.request())

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._exchange.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes, and send the next request after an answer."""
        if self._exchange.received(nbytes):
            if work.left > 0:
                self._transport.write(self._exchange.request())
            else:
                self._done.set()


async def on_loop() -> None:
    """Take all pieces on an event loop."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    for number in range(int(connections)):
        address = addresses[number % len(addresses)]
        await loop.create_connection(
            lambda address=address: Reader(Exchange(address), done), address.hostname, address.port
        )
    await done.wait()


def in_thread(address: SplitResult) -> None:
    """Take pieces over one connection that blocks."""
    exchange = Exchange(address)
    with socket.create_connection((address.hostname or "", address.port or 80)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while work.left > 0:
            sock.sendall(exchange.request())
            while size := sock.recv_into(exchange.room()):
                if exchange.received(size):
                    break
            else:
                sys.exit("the server ended the connection")


if how == "asyncio":
    asyncio.run(on_loop())
else:
    threads = [
        threading.Thread(target=in_thread, args=(addresses[number % len(addresses)],))
        for number in range(int(connections))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
work.finish()
