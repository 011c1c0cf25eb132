"""A server whose answers can be made wrong, path by path, in front of a real data directory.

Untouched it is a plain static web server over what ``shardcast broadcast`` wrote. ``set`` gives the paths of
a pattern a behaviour: a coroutine function that answers one `Exchange`; `bad_answers` makes them. The server
counts requests and sent bytes by path.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import re
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

REASONS = {200: "OK", 206: "Partial Content", 302: "Found", 404: "Not Found", 412: "Precondition Failed"}
CHUNK = 16 * 1024


@dataclass(frozen=True)
class RightAnswer:
    """The right answer to a request, from which a behaviour makes a wrong one."""

    status: int
    body: bytes
    start: int = 0
    total: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_content(self) -> bool:
        """Whether the answer carries bytes of a file rather than an error."""
        return self.status in (200, 206)


@dataclass
class Exchange:
    """One request, and the connection to answer it on."""

    server: BadServer
    method: str
    path: str
    headers: Mapping[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    keeps_open: bool = True

    def right_answer(self, ranges: bool | None = None) -> RightAnswer:
        """Return the requested bytes, as a static web server answers."""
        content = self.server.content(self.path)
        if content is None:
            return RightAnswer(404, b"not found\n")
        headers: dict[str, str] = {}
        if self.server.etags:
            # As nginx does it: a tag that is no digest, and If-Match taken seriously.
            headers["ETag"] = f'"{len(content):x}-5f3c"'
            if self.headers.get("if-match", headers["ETag"]) not in (headers["ETag"], "*"):
                return RightAnswer(412, b"")
        ranges = self.server.ranges if ranges is None else ranges
        if ranges:
            headers["Accept-Ranges"] = "bytes"
        requested = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", "")) if ranges else None
        if requested is None or requested[0] == "bytes=-":
            return RightAnswer(200, content, 0, len(content), headers)
        if requested[1]:
            start, stop = int(requested[1]), min(int(requested[2] or len(content)) + 1, len(content))
        else:
            start, stop = max(0, len(content) - int(requested[2])), len(content)
        if start >= stop:
            return RightAnswer(416, b"", headers={"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        return RightAnswer(206, content[start:stop], start, len(content), headers)

    async def start(self, status: int, length: int | None, headers: Mapping[str, str] | None = None) -> None:
        """Send the status line and the headers; without ``length`` the body ends with the connection."""
        lines = [f"HTTP/{'1.1' if self.server.keep_alive else '1.0'} {status} {REASONS.get(status, 'Other')}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        elif "Transfer-Encoding" not in (headers or {}):
            self.keeps_open = False
        if not self.keeps_open:
            lines.append("Connection: close")
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def send(self, data: bytes) -> None:
        """Send bytes, and count each chunk once it has left this process."""
        for begin in range(0, len(data), CHUNK):
            chunk = data[begin : begin + CHUNK]
            self.writer.write(chunk)
            await self.writer.drain()
            self.server.sent[self.path] += len(chunk)

    async def body(self, data: bytes) -> None:
        """Send a body, which an answer to HEAD does not have."""
        if self.method != "HEAD":
            await self.send(data)

    async def answer(self, part: RightAnswer) -> None:
        """Send an answer, with its right length."""
        await self.start(part.status, len(part.body), part.headers)
        await self.body(part.body)

    async def wait_for_disconnect(self) -> None:
        """Send nothing more until the client leaves."""
        self.keeps_open = False
        while await self.reader.read(CHUNK):
            pass

    def close(self) -> None:
        """Close the connection when the behaviour returns, whatever the head promised."""
        self.keeps_open = False


Behaviour = Callable[[Exchange], Awaitable[None]]


class BadServer:
    """The server, on 127.0.0.1, in a thread between ``with`` and its end.

    Attributes:
        data_dir: the folder that it serves.
        ranges: whether it answers requests for ranges.
        keep_alive: whether it keeps connections open.
        etags: whether it sends tags that are no digests, as nginx does.
        requests: number of requests by path.
        sent: bytes sent by path, heads included.
        failures: errors of the server itself, which fail the test.
        port: its port; 0 before it listens where a free one is wanted.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ranges: bool = True,
        keep_alive: bool = True,
        etags: bool = False,
        port: int = 0,
    ) -> None:
        self.data_dir = data_dir
        self.ranges = ranges
        self.keep_alive = keep_alive
        self.etags = etags
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self.port = port
        self._behaviours: list[tuple[str, Behaviour]] = []
        self._tasks: dict[asyncio.Task[None], object] = {}  # with the address of the client
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def address(self) -> str:
        """``host:port``, as it stands in ``--servers``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{self.address}"

    def set(self, pattern: str, behaviour: Behaviour) -> BadServer:
        """Answer the paths of a shell pattern so; the latest pattern that fits counts.

        Returns:
            This server.
        """
        self._behaviours.insert(0, (pattern, behaviour))
        return self

    def requested(self, pattern: str = "*") -> int:
        """Return the number of requests for the paths of a pattern."""
        return self._total(self.requests, pattern)

    def sent_bytes(self, pattern: str = "*") -> int:
        """Return the bytes sent for the paths of a pattern, heads included."""
        return self._total(self.sent, pattern)

    @property
    def idle(self) -> bool:
        """Whether no client is connected, once all waiting connections were accepted.

        A connection of ours tells: those made before it are accepted first.
        """

        async def look() -> bool:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            own = writer.get_extra_info("sockname")
            while own not in self._tasks.values():
                await asyncio.sleep(0.001)
            others = len(self._tasks) - 1
            writer.close()
            return not others

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(look(), self._loop).result(10)

    def content(self, path: str) -> bytes | None:
        """Return the content of a path in the data directory now; None where there is no such file."""
        file = self.data_dir / path.lstrip("/")
        inside = self.data_dir in file.parents and ".." not in file.parts
        return file.read_bytes() if inside and file.is_file() else None

    def __enter__(self) -> BadServer:
        self._thread.start()
        assert self._ready.wait(10), "the server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the server did not end"
        assert not self.failures, f"the server itself failed: {self.failures}"

    @staticmethod
    def _total(counter: Counter[str], pattern: str) -> int:
        """Return the sum of the counts of the paths of a pattern."""
        # A copy first, in one step: the server's thread goes on counting.
        return sum(count for path, count in list(counter.items()) if fnmatch.fnmatchcase(path, pattern))

    async def _serve(self) -> None:
        """Serve until the end of the block; the thread's function."""
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        # A small buffer, so that what is counted as sent is at most this far ahead of what was read.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        self.port = listener.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, sock=listener)
        self._ready.set()
        await self._stop.wait()
        # Nobody new is let in, and whoever has just been gets as far as a task of ours before the server is
        # closed: asyncio would leave the socket open. So would a task that is cancelled before it begins.
        self._loop.remove_reader(listener)
        while asyncio.all_tasks() - {asyncio.current_task()}:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.sleep(0.001)
        server.close()
        await asyncio.sleep(0.01)  # connections that were closed let go of their sockets

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = writer.get_extra_info("peername")
        writer.transport.set_write_buffer_limits(0)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left, which is its right
        except asyncio.CancelledError:
            writer.transport.abort()  # the server ends; what was not sent yet is not waited for
        except Exception as error:  # noqa: BLE001 - kept for __exit__, where it fails the test
            self.failures.append(error)
        finally:
            writer.close()
            try:
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            except asyncio.CancelledError:
                writer.transport.abort()
            finally:
                self._tasks.pop(task, None)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, path, version = first.split(" ")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines if line)}
        keeps_open = self.keep_alive and version == "HTTP/1.1" and headers.get("connection") != "close"
        exchange = Exchange(self, method, path, headers, reader, writer, keeps_open)
        await _pass_over_body(reader, headers)
        self.requests[path] += 1
        behaviour = next((b for p, b in self._behaviours if fnmatch.fnmatchcase(path, p)), None)
        await (behaviour(exchange) if behaviour else exchange.answer(exchange.right_answer()))
        return exchange.keeps_open


async def _pass_over_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> None:
    """Read a request's body, so that the next request begins where it does."""
    if "chunked" in headers.get("transfer-encoding", ""):
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.readexactly(int(headers.get("content-length", 0)))


@contextlib.contextmanager
def dead_address() -> Iterator[str]:
    """Yield ``host:port`` where no process listens, nor can begin to while the block runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
