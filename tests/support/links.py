"""Links between the nodes of a network, which can be slow and count what passes.

Each lies between a node and one of its servers, and refuses connections while the server is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

_CHUNK = 16 * 1024
_SOCKET_BUFFER = 64 * 1024
"""A small one, so that what is counted as sent is at most little ahead of what was read."""
_SETTLES = 0.05
"""Seconds in which what was sent before has come out of the system's queues."""
_SHARD = re.compile(r"GET /v([1-9][0-9]*)/shard_([0-9]+)\.bin HTTP/1\.1")


class Port:
    """A port of 127.0.0.1 reserved for a node that may be down.

    Connections are refused while no process listens there, and the system gives the port to no other process.
    """

    def __init__(self) -> None:
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", 0))
        self.number = int(self._kept.getsockname()[1])

    @property
    def address(self) -> str:
        """``host:port``, as it stands in ``--servers``."""
        return f"127.0.0.1:{self.number}"

    def close(self) -> None:
        """Release the port."""
        self._kept.close()


@dataclass
class ShardRequest:
    """A request for bytes of a shard.

    Attributes:
        reader: the node that asked.
        version: number of the version.
        shard: number of the shard.
        start: first byte.
        end: byte after the last one; None for the rest of the shard.
        sent: bytes sent so far.
    """

    reader: str
    version: int
    shard: int
    start: int
    end: int | None
    sent: int = 0


@dataclass
class _Link:
    """A link from a node to a server at the port ``to``."""

    reader: str
    server: str
    port: Port
    to: int
    listening: asyncio.Server | None = None


@dataclass
class Links:
    """All links of a network, in a thread between ``with`` and its end.

    Attributes:
        rate: bytes a second of each answer with bytes of a shard.
        requests: requests for shards, in order.
    """

    rate: float
    requests: list[ShardRequest] = field(default_factory=list)
    _links: list[_Link] = field(default_factory=list)
    _connections: Counter[str] = field(default_factory=Counter)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _failures: list[BaseException] = field(default_factory=list)

    def add(self, reader: str, server: str, to: Port) -> str:
        """Make a link from a node to one of its servers, which listens at ``to``.

        Returns:
            The address for the node to use instead; it refuses connections until ``open``.
        """
        link = _Link(reader, server, Port(), to.number)
        self._links.append(link)
        return link.port.address

    def open(self, server: str) -> None:
        """Accept connections to a server, which listens now."""
        self._run(self._open(server))

    def close(self, server: str) -> None:
        """Refuse new connections to a server that is about to end; open ones live as long as it does."""
        self._run(self._close(server))

    def wait_until_recorded(self, reader: str | None = None) -> None:
        """Wait until all requests are recorded.

        Args:
            reader: a node that is dead, whose connections must have ended too; None for none.
        """
        self._run(self._settle(reader))

    def check(self) -> None:
        """Fail now if a link was used wrongly."""
        if self._failures:
            raise self._failures[0]

    def __enter__(self) -> Links:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    # In the thread

    async def _open(self, server: str) -> None:
        """Listen on the links to a server."""
        for link in self._links:
            if link.server == server and link.listening is None:
                link.listening = await self._listen(link)

    async def _listen(self, link: _Link) -> asyncio.Server:
        """Listen on a link."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        listener.bind(("127.0.0.1", link.port.number))
        listener.listen(128)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._connections[link.reader] += 1
            task = asyncio.ensure_future(self._connected(link, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return await asyncio.start_server(connected, sock=listener)

    async def _close(self, server: str) -> None:
        """Stop listening on the links to a server."""
        for link in self._links:
            if link.server == server and link.listening:
                link.listening.close()
                link.listening = None

    async def _settle(self, reader: str | None) -> None:
        """Wait for the system's queues, and for the end of a reader's connections."""
        await asyncio.sleep(_SETTLES)
        while reader and self._connections[reader]:
            await asyncio.sleep(0.01)

    async def _end(self) -> None:
        """End all connections, and release the ports."""
        for link in self._links:
            if link.listening:
                link.listening.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._links:
            link.port.close()

    async def _connected(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Read the requests of a connection, and answer them beside that."""
        writer.transport.set_write_buffer_limits(0)
        heads: asyncio.Queue[bytes] = asyncio.Queue()
        answering = asyncio.ensure_future(self._answer(link, heads, writer))
        # Whoever is answered says nothing meanwhile but the next request, and then that it is gone.
        answering.add_done_callback(lambda _: writer.transport.abort() if answering.cancelled() else None)
        try:
            while True:
                heads.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            self._connections[link.reader] -= 1

    async def _answer(self, link: _Link, heads: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection until either side ends it."""
        server: asyncio.StreamWriter | None = None
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", link.to)
            head = await heads.get()
            if _SHARD.match(head.decode("latin-1")):
                while True:
                    await self._answer_shard(link, head, answers, server, writer=writer)
                    head = await heads.get()
            pouring = asyncio.ensure_future(_pour(answers, writer))
            passing = asyncio.ensure_future(self._pass_on(head, heads, server))
            try:
                await asyncio.wait([pouring, passing], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (pouring, passing):
                    task.cancel()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # one of the two has gone, which the other one sees now
        except Exception as error:  # noqa: BLE001 - kept for check(), where it fails the test
            self._failures.append(error)
        finally:
            writer.close()
            if server:
                server.close()

    async def _pass_on(self, head: bytes, heads: asyncio.Queue[bytes], server: asyncio.StreamWriter) -> None:
        """Pass requests on that are not for shards."""
        while True:
            if _SHARD.match(head.decode("latin-1")):
                self._failures.append(AssertionError("a shard is asked for where it can't be counted"))
            server.write(head)
            await server.drain()
            head = await heads.get()

    async def _answer_shard(
        self,
        link: _Link,
        request: bytes,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        *,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Answer a request for a shard, at the link's rate, and count the bytes."""
        text = request.decode("latin-1")
        path = _SHARD.match(text)
        assert path, f"another request on a connection for shards: {text}"
        part = re.search(r"\r\nRange: bytes=([0-9]+)-([0-9]+)\r\n", text)
        start, end = (int(part[1]), int(part[2]) + 1) if part else (0, None)
        shard_request = ShardRequest(link.reader, int(path[1]), int(path[2]), start, end)
        self.requests.append(shard_request)
        server.write(request)
        head = await answers.readuntil(b"\r\n\r\n")
        writer.write(head)
        length = re.search(rb"\r\nContent-Length: ([0-9]+)\r\n", head)
        assert length, f"an answer without a length: {head!r}"
        left, has_shard = int(length[1]), head.split(b" ")[1] in (b"200", b"206")
        due = 0.0
        while left:
            chunk = await answers.read(min(left, _CHUNK))
            if not chunk:
                raise ConnectionResetError("the server has gone")
            if has_shard:
                now = asyncio.get_running_loop().time()
                due = max(due, now) + len(chunk) / self.rate
                await asyncio.sleep(due - now)
                shard_request.sent += len(chunk)
            writer.write(chunk)
            await writer.drain()
            left -= len(chunk)


async def _pour(answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until either side ends."""
    with contextlib.suppress(ConnectionError):
        while chunk := await answers.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
