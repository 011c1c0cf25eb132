"""Give or take pieces over bare two-way streams of frames: what such a carrier costs at the least.

``give FILE``: listen, print the port, and give pieces of FILE to all who connect.
``take PORTS STREAMS COUNT PIECES MANIFEST OUTPUT WAKE``: take COUNT pieces by requests for PIECES each, one
request out a stream, and print the CPU seconds as JSON; a piece under way wakes the process once WAKE bytes
of it are there. With PIECES 0 the two ends send each other batches of haves instead, COUNT of them in all,
each after the other's. A port may be written ``HOST:PORT``.

A stream begins as an HTTP request with ``Upgrade``. A frame is a byte of type, three of length, and a
payload; one with bytes of a piece has the number of its request before them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections import deque

from carrier_work import PIECE, Work

HAVE, WANT, BYTES = range(3)
PORTION = 64 << 10
"""Bytes of a piece in a frame: other frames go between two of them."""
UNSENT = 128 << 10
"""Bytes that wait in the socket, as bytes of pieces would before later frames."""
BATCH = b"".join(struct.pack("!III", 1, 40 * n, 1) for n in range(5))
"""A batch of haves: five ranges of pieces."""
CONTROL = 64 << 10
HEAD = struct.Struct("!I")
BYTES_HEAD = struct.Struct("!II")
WANTED = struct.Struct("!IIII")
REQUEST = b"GET /swarm HTTP/1.1\r\nHost: peer\r\nConnection: Upgrade\r\nUpgrade: swarm\r\n\r\n"
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: swarm\r\n\r\n"


class Stream(asyncio.BufferedProtocol):
    """One end of a stream; what comes is parsed in place."""

    def __init__(self) -> None:
        """Have one buffer, of a piece and a control frame."""
        self._memory = bytearray(PIECE + CONTROL)
        self._view = memoryview(self._memory)
        self._held = self._filled = self._left = 0  # of the piece; in all; of the portion
        self._woken_at = 1
        self._control = bytearray()
        self._portions: deque[tuple[bytes, int, int]] = deque()
        self._waiting = False
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write through a second descriptor, so that the loop does not mind."""
        self._out = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        asyncio.get_running_loop().remove_writer(self._out.fileno())
        self._out.close()

    # In

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes: of a piece, of other frames, of the head."""
        self._filled += nbytes
        if not self._upgraded:
            end = self._memory.find(b"\r\n\r\n", 0, self._filled) + 4
            if end < 4:
                return
            self._upgraded = True
            self._cut(0, end)
            self.begin()
        while self._step():
            pass
        rest = PIECE - self._filled if self._left or self._held else 0
        wanted = max(1, min(rest, self.wake))
        if wanted != self._woken_at:
            self._woken_at = wanted
            self._out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)

    def _step(self) -> bool:
        """Take a part of what is there; return whether there may be more."""
        beyond = self._filled - self._held
        if self._left:
            taken = min(beyond, self._left)
            self._held += taken
            self._left -= taken
            if self._held == PIECE:
                self.piece(self._view[:PIECE])
                self._cut(0, PIECE)
                self._held = 0
            return beyond > taken
        if beyond < 8:
            return False
        word, _ = BYTES_HEAD.unpack_from(self._memory, self._held)
        kind, length = word >> 24, word & 0xFFFFFF
        if kind == BYTES:
            self._left = length - 4
            self._cut(self._held, 8)
            return True
        if beyond < 4 + length:
            return False
        payload = bytes(self._view[self._held + 4 : self._held + 4 + length])
        self._cut(self._held, 4 + length)
        self.control(kind, payload)
        return True

    def _cut(self, start: int, size: int) -> None:
        """Take bytes out of the buffer."""
        self._memory[start : self._filled - size] = self._view[start + size : self._filled]
        self._filled -= size

    # Out

    def send(self, kind: int, payload: bytes) -> None:
        """Send a frame."""
        self._control += HEAD.pack(kind << 24 | len(payload)) + payload
        if not self._waiting:
            self.pump()

    def give(self, request: int, offset: int, size: int) -> None:
        """Send bytes of the file."""
        for start in range(offset, offset + size, PORTION):
            part = min(PORTION, offset + size - start)
            self._portions.append((BYTES_HEAD.pack(BYTES << 24 | part + 4, request), start, part))
        if not self._waiting:
            self.pump()

    _head = b""
    _rest = (0, 0)

    def pump(self) -> None:
        """Write until the socket takes no more: first what was begun, then control frames, then portions."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                offset, left = self._rest
                if self._head:
                    self._head = self._head[self._out.send(self._head, socket.MSG_MORE) :]
                elif left:
                    sent = os.sendfile(self._out.fileno(), self.file, offset, left)
                    self._rest = offset + sent, left - sent
                elif self._control:
                    del self._control[: self._out.send(self._control)]
                elif self._portions:
                    self._head, *rest = self._portions.popleft()
                    self._rest = rest[0], rest[1]
                else:
                    break
        except ConnectionError:
            self._control.clear()
            self._portions.clear()
            self._head, self._rest = b"", (0, 0)
        except BlockingIOError:
            if not self._waiting:
                self._waiting = True
                loop.add_writer(self._out.fileno(), self.pump)
            return
        if self._waiting:
            self._waiting = False
            loop.remove_writer(self._out.fileno())

    file = -1
    wake = PIECE

    def begin(self) -> None:
        """The stream is there."""

    def control(self, kind: int, payload: bytes) -> None:
        """Take a frame that has no bytes of pieces."""

    def piece(self, piece: memoryview) -> None:
        """Take a piece."""


class Giver(Stream):
    """The end that was connected to."""

    def begin(self) -> None:
        """Answer the request."""
        self._control += ANSWER
        self.pump()

    def control(self, kind: int, payload: bytes) -> None:
        """Give what is wanted; answer haves by haves."""
        if kind == WANT:
            request, _, first, count = WANTED.unpack(payload)
            self.give(request, first * PIECE, count * PIECE)
        else:
            list(struct.iter_unpack("!III", payload))
            self.send(HAVE, BATCH)


async def give(path: str) -> None:
    """Give pieces of a file, until killed."""
    Giver.file = os.open(path, os.O_RDONLY)
    server = await asyncio.get_running_loop().create_server(Giver, "0.0.0.0", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


async def take(
    ports: str, streams: str, count: str, pieces: str, manifest: str, output: str, wake: str
) -> None:
    """Take pieces, or exchange haves."""
    Stream.wake = int(wake)
    work, done = Work(manifest, output, int(count)), asyncio.Event()
    ranges = work.todo(int(pieces) or 1)

    class Taker(Stream):
        """The end that connected."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            """Send the request."""
            super().connection_made(transport)
            self._control += REQUEST
            self.pump()
            self._request = 0

        def begin(self) -> None:
            """Ask."""
            self.ask()

        def ask(self) -> None:
            """Ask for the next pieces, or send a batch of haves."""
            if work.left <= 0:
                done.set()
            elif pieces == "0":
                work.left -= 2
                self.send(HAVE, BATCH)
            else:
                self._index, self._number = next(ranges)
                self._request += 1
                self.send(WANT, WANTED.pack(self._request, 1, self._index, self._number))

        def control(self, kind: int, payload: bytes) -> None:
            """Answer haves by haves."""
            list(struct.iter_unpack("!III", payload))
            self.ask()

        def piece(self, piece: memoryview) -> None:
            """Verify and write a piece, and ask for the next ones after the last."""
            work.take(self._index, piece)
            self._index, self._number = self._index + 1, self._number - 1
            if not self._number:
                self.ask()

    places = [port.rpartition(":") for port in ports.split(",")]
    for number in range(int(streams)):
        host, _, port = places[number % len(places)]
        await asyncio.get_running_loop().create_connection(Taker, host or "127.0.0.1", int(port))
    await done.wait()
    work.finish()


what, *words = sys.argv[1:]
asyncio.run(give(*words) if what == "give" else take(*words))
