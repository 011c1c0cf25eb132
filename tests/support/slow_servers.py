"""Servers that stop, or trickle for ever, at each place of an answer.

`SlowServer` answers one path so, and the others right. ``WAYS`` are the ways;
`tests/faults/test_slow_servers.py` runs every request that shardcast makes against each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

TICK = 0.05
"""Seconds between two bytes that trickle: never so few that a time-out between two bytes would trip."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True)
class Reply:
    """A right answer, in the parts at which a server may stop."""

    body: bytes = b""
    content_type: str = "application/octet-stream"
    status: str = "200 OK"
    ends: bool = True

    @property
    def head(self) -> bytes:
        """Head of the answer; without ``ends`` the body goes on for as long as the connection is open."""
        length = f"Content-Length: {len(self.body)}\r\n" if self.ends else ""
        return f"HTTP/1.1 {self.status}\r\nContent-Type: {self.content_type}\r\n{length}\r\n".encode()

    @property
    def line(self) -> bytes:
        """First line of the body, or half of it where the body has no line."""
        end = self.body.find(b"\n") + 1
        return self.body[: end or len(self.body) // 2]


NOT_FOUND = Reply(status="404 Not Found")
Send = Callable[[bytes], Awaitable[None]]
Way = Callable[[Send, Reply], Awaitable[None]]


async def _hold() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


async def _trickle(send: Send, data: bytes = b"", filler: bytes = b"x") -> None:
    """Send ``data`` byte by byte, then ``filler`` for ever."""
    for start in range(len(data)):
        await send(data[start : start + 1])
        await asyncio.sleep(TICK)
    while True:
        await send(filler)
        await asyncio.sleep(TICK)


async def _flood(send: Send, data: bytes) -> None:
    """Send ``data`` again and again, for ever."""
    while True:
        await send(data)
        await asyncio.sleep(0.001)  # others have their turn, and what comes at once doesn't depend on them


async def _stops_after_the_connection(send: Send, reply: Reply) -> None:
    await _hold()


async def _stops_in_the_head(send: Send, reply: Reply) -> None:
    await send(reply.head[:-8])
    await _hold()


async def _trickles_the_head(send: Send, reply: Reply) -> None:
    await send(reply.head[:-4] + b"\r\nX-Slow: ")
    await _trickle(send)


async def _trickles_informational_answers(send: Send, reply: Reply) -> None:
    await _trickle(send, filler=CONTINUE)


async def _floods_informational_answers(send: Send, reply: Reply) -> None:
    await _flood(send, CONTINUE * 1000)


async def _floods_the_head(send: Send, reply: Reply) -> None:
    await send(reply.head[:-2])
    await _flood(send, b"X-Padding: " + b"x" * 1000 + b"\r\n")


async def _stops_after_the_head(send: Send, reply: Reply) -> None:
    await send(reply.head)
    await _hold()


async def _stops_in_the_body(send: Send, reply: Reply) -> None:
    await send(reply.head + reply.line[:-1])
    await _hold()


async def _trickles_the_body(send: Send, reply: Reply) -> None:
    await send(reply.head + reply.body[:1])
    await _trickle(send, reply.body[1:2000])


async def _stops_between_lines(send: Send, reply: Reply) -> None:
    await send(reply.head + reply.line)
    await _hold()


async def _trickles_the_next_line(send: Send, reply: Reply) -> None:
    await send(reply.head + reply.line)
    await _trickle(send, reply.body[len(reply.line) :][:2000], filler=b" ")


async def _floods_the_next_line(send: Send, reply: Reply) -> None:
    await send(reply.head + reply.line)
    await _flood(send, b" " * 100_000)


WAYS: Mapping[str, Way] = {
    way.__name__.strip("_").replace("_", " "): way
    for way in (
        _stops_after_the_connection,
        _stops_in_the_head,
        _trickles_the_head,
        _trickles_informational_answers,
        _floods_informational_answers,
        _floods_the_head,
        _stops_after_the_head,
        _stops_in_the_body,
        _trickles_the_body,
        _stops_between_lines,
        _trickles_the_next_line,
        _floods_the_next_line,
    )
}


class SlowServer:
    """Server on a free port of 127.0.0.1, or on a Unix socket, that is slow in one way.

    It answers the paths that begin with ``slow`` in that way, and 404 for all others.

    Attributes:
        url: base URL.
        slow_requests: number of requests for a slow path.
    """

    def __init__(self, way: Way, slow: str, reply: Reply, unix: Path | None = None) -> None:
        self.url = ""
        self.slow_requests = 0
        self._way = way
        self._slow = slow
        self._reply = reply
        self._unix = unix
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> SlowServer:
        if self._unix:
            self._server = await asyncio.start_unix_server(self._connected, self._unix)
        else:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)

        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
                if path.startswith(self._slow):
                    self.slow_requests += 1
                    await self._way(send, self._reply)
                await send(NOT_FOUND.head)
        except asyncio.CancelledError:
            pass  # asyncio would log it
        finally:
            writer.transport.abort()
            self._tasks.discard(task)
