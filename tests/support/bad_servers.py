"""A server whose answers can be made wrong, path by path, in front of a real data directory.

Untouched it is a plain static web server over what ``shardcast broadcast`` wrote. ``set`` gives the
paths of a pattern a behaviour: a coroutine function that answers one `Exchange`. The functions below
make the behaviours. What is asked and what goes out is counted per path.
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

HTML = b"<!doctype html><html><head><title>Welcome</title></head><body>Please log in.</body></html>\n"
REASONS = {200: "OK", 206: "Partial Content", 302: "Found", 404: "Not Found", 412: "Precondition Failed"}
CHUNK = 16 * 1024


@dataclass(frozen=True)
class Part:
    """The right answer to a request: what a behaviour starts from to do it wrong."""

    status: int
    body: bytes
    start: int = 0
    total: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_content(self) -> bool:
        """Whether it carries bytes of a file, rather than saying that there are none."""
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

    def part(self, ranges: bool | None = None) -> Part:
        """The bytes that this request asks for, as a static web server answers it."""
        content = self.server.content(self.path)
        if content is None:
            return Part(404, b"not found\n")
        headers: dict[str, str] = {}
        if self.server.etags:
            # As nginx does it: a tag that is no digest, and If-Match taken seriously.
            headers["ETag"] = f'"{len(content):x}-5f3c"'
            if self.headers.get("if-match", headers["ETag"]) not in (headers["ETag"], "*"):
                return Part(412, b"")
        ranges = self.server.ranges if ranges is None else ranges
        if ranges:
            headers["Accept-Ranges"] = "bytes"
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", "")) if ranges else None
        if asked is None or asked[0] == "bytes=-":
            return Part(200, content, 0, len(content), headers)
        if asked[1]:
            start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
        else:
            start, stop = max(0, len(content) - int(asked[2])), len(content)
        if start >= stop:
            return Part(416, b"", headers={"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        return Part(206, content[start:stop], start, len(content), headers)

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
        """Put bytes on the wire and count them once they left this process."""
        for begin in range(0, len(data), CHUNK):
            chunk = data[begin : begin + CHUNK]
            self.writer.write(chunk)
            await self.writer.drain()
            self.server.sent[self.path] += len(chunk)

    async def body(self, data: bytes) -> None:
        """Send a body, which an answer to HEAD does not have."""
        if self.method != "HEAD":
            await self.send(data)

    async def answer(self, part: Part) -> None:
        """Answer right."""
        await self.start(part.status, len(part.body), part.headers)
        await self.body(part.body)

    async def hold(self) -> None:
        """Say nothing more until the other side leaves."""
        self.keeps_open = False
        while await self.reader.read(CHUNK):
            pass

    def close(self) -> None:
        """Close the connection when the behaviour returns, whatever was promised on it."""
        self.keeps_open = False


Behaviour = Callable[[Exchange], Awaitable[None]]


class BadServer:
    """The server, on 127.0.0.1 (a free port unless told), in a thread between ``with`` and its end."""

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
        self._tasks: set[asyncio.Task[None]] = set()
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
        return f"http://{self.address}"

    def set(self, pattern: str, behaviour: Behaviour) -> BadServer:
        """Answer the paths of a shell pattern so; the latest that fits counts. Returns the server."""
        self._behaviours.insert(0, (pattern, behaviour))
        return self

    def requested(self, pattern: str = "*") -> int:
        """How many requests came for the paths of a pattern."""
        return self._total(self.requests, pattern)

    def sent_bytes(self, pattern: str = "*") -> int:
        """How many bytes went out for the paths of a pattern, heads included."""
        return self._total(self.sent, pattern)

    @property
    def idle(self) -> bool:
        """Whether nobody is connected, once whoever knocked has been let in."""

        async def look() -> bool:
            await asyncio.sleep(0.01)
            return not self._tasks

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(look(), self._loop).result(10)

    def content(self, path: str) -> bytes | None:
        """What the data directory has under a path now."""
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
        # A copy first, in one step: the server's thread goes on counting.
        return sum(count for path, count in list(counter.items()) if fnmatch.fnmatchcase(path, pattern))

    async def _serve(self) -> None:
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
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
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
                self._tasks.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, path, version = first.split(" ")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines if line)}
        keeps_open = self.keep_alive and version == "HTTP/1.1" and headers.get("connection") != "close"
        exchange = Exchange(self, method, path, headers, reader, writer, keeps_open)
        await _pass_over_body(reader, headers)
        self.requests[path] += 1
        behaviour = next((b for p, b in self._behaviours if fnmatch.fnmatchcase(path, p)), good())
        await behaviour(exchange)
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
    """``host:port`` where nobody listens, and nobody else can begin to while the block runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


# The behaviours ---------------------------------------------------------------------------------


def good() -> Behaviour:
    """Answer as a static web server does."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(exchange.part())

    return behave


def flipped(offset: int) -> Behaviour:
    """One wrong byte at ``offset`` of the file, whichever part of it is asked for."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.part()
        body = bytearray(part.body)
        if part.has_content and 0 <= offset - part.start < len(body):
            body[offset - part.start] ^= 0xFF
        await exchange.start(part.status, len(body), part.headers)
        await exchange.body(bytes(body))

    return behave


def cut(after: int) -> Behaviour:
    """Close the connection after so many bytes of the body, short of what the head promised."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.part()
        exchange.close()
        await exchange.start(part.status, len(part.body), part.headers)
        await exchange.body(part.body[:after])

    return behave


def shorter(by: int) -> Behaviour:
    """Too few bytes, in an answer that is consistent with itself."""
    return _resized(lambda body: body[: max(0, len(body) - by)])


def longer(by: int) -> Behaviour:
    """Too many bytes, in an answer that is consistent with itself."""
    return _resized(lambda body: body + b"\xa5" * by)


def _resized(change: Callable[[bytes], bytes]) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        part = exchange.part()
        if not part.has_content:
            await exchange.answer(part)
            return
        body = change(part.body)
        headers = dict(part.headers)
        if part.status == 206:
            stop = part.start + len(body)
            total = part.total + len(body) - len(part.body)
            headers["Content-Range"] = f"bytes {part.start}-{stop - 1}/{total}"
        await exchange.start(part.status, len(body), headers)
        await exchange.body(body)

    return behave


def claims(more: int) -> Behaviour:
    """A Content-Length that is so much larger than the body (smaller when negative)."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.part()
        if more > 0:
            exchange.close()
        await exchange.start(part.status, max(0, len(part.body) + more), part.headers)
        await exchange.body(part.body)

    return behave


def redirect_loop() -> Behaviour:
    """Redirect every request to where it came from."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(Part(302, b"", headers={"Location": exchange.server.url + exchange.path}))

    return behave


def redirect(to: str) -> Behaviour:
    """Redirect to the same path of another server."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(Part(302, b"", headers={"Location": to + exchange.path}))

    return behave


def replaced(body: bytes, content_type: str = "text/plain") -> Behaviour:
    """These bytes with 200, whatever was asked for."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(Part(200, body, headers={"Content-Type": content_type}))

    return behave


def html() -> Behaviour:
    """A page with 200, as a captive portal answers."""
    return replaced(HTML, "text/html")


def trickle(every: float = 1.0) -> Behaviour:
    """The right bytes, one each second."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.part()
        await exchange.start(part.status, len(part.body), part.headers)
        for byte in part.body:
            await exchange.body(bytes([byte]))
            await asyncio.sleep(every)

    return behave


def throttled(rate: float) -> Behaviour:
    """The right bytes, so many a second over all answers together."""
    free_at = 0.0

    async def behave(exchange: Exchange) -> None:
        nonlocal free_at
        loop = asyncio.get_running_loop()
        part = exchange.part()
        await exchange.start(part.status, len(part.body), part.headers)
        for begin in range(0, len(part.body), CHUNK):
            chunk = part.body[begin : begin + CHUNK]
            free_at = max(free_at, loop.time()) + len(chunk) / rate
            await asyncio.sleep(free_at - loop.time())
            await exchange.body(chunk)

    return behave


def stall(after: int) -> Behaviour:
    """Send so many bytes of the body, then nothing more, with the connection left open."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.part()
        await exchange.start(part.status, len(part.body), part.headers)
        await exchange.body(part.body[:after])
        await exchange.hold()

    return behave


def silent() -> Behaviour:
    """Take the request and say nothing at all."""

    async def behave(exchange: Exchange) -> None:
        await exchange.hold()

    return behave


def gate(opened: threading.Event) -> Behaviour:
    """Answer right, but not before the gate is opened."""

    async def behave(exchange: Exchange) -> None:
        while not opened.is_set():
            await asyncio.sleep(0.02)
        await exchange.answer(exchange.part())

    return behave


def closed() -> Behaviour:
    """Take the request and close the connection."""

    async def behave(exchange: Exchange) -> None:
        exchange.close()

    return behave


def reset() -> Behaviour:
    """Take the request and reset the connection, as a balancer whose server has gone may."""

    async def behave(exchange: Exchange) -> None:
        exchange.close()
        exchange.writer.transport.abort()

    return behave


def broken_head(part: bytes) -> Behaviour:
    """Send a part of an answer's head and close the connection."""

    async def behave(exchange: Exchange) -> None:
        exchange.close()
        await exchange.send(part)

    return behave


def error(status: int = 500, retry_after: int | None = None, node: str | None = None) -> Behaviour:
    """An error status, with Retry-After and the id of a shardcast node if given."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    headers |= {} if node is None else {"Shardcast-Node": node}

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(Part(status, b"no\n", headers=headers))

    return behave


def first(behaviour: Behaviour, times: int = 1, then: Behaviour | None = None) -> Behaviour:
    """Behave so for the first requests of each path, and well (or as ``then``) after that."""
    seen: Counter[str] = Counter()
    later = then or good()

    async def behave(exchange: Exchange) -> None:
        seen[exchange.path] += 1
        await (behaviour if seen[exchange.path] <= times else later)(exchange)

    return behave


def endless() -> Behaviour:
    """A body that does not end."""

    async def behave(exchange: Exchange) -> None:
        await exchange.start(200, None)
        while True:
            await exchange.send(b"\x5a" * CHUNK)
            await asyncio.sleep(0.0005)

    return behave


def huge_headers(size: int = 4 * 1024 * 1024) -> Behaviour:
    """The right body behind headers of this many bytes."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.part()
        padding = {f"X-Padding-{i}": "a" * 1000 for i in range(size // 1000)}
        await exchange.start(part.status, len(part.body), {**part.headers, **padding})
        await exchange.body(part.body)

    return behave


def chunked() -> Behaviour:
    """The right bytes in chunked transfer coding, as a proxy may pass them on."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.part()
        await exchange.start(part.status, None, {**part.headers, "Transfer-Encoding": "chunked"})
        for begin in range(0, len(part.body), CHUNK):
            chunk = part.body[begin : begin + CHUNK]
            await exchange.body(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        await exchange.body(b"0\r\n\r\n")

    return behave


def ignores_range() -> Behaviour:
    """The whole file with 200, also when a part was asked for."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(exchange.part(ranges=False))

    return behave


def wrong_range(shift: int = 1000) -> Behaviour:
    """Another part than the one asked for, and a Content-Range that says so."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.part(ranges=False)
        if not part.has_content:
            await exchange.answer(part)
            return
        asked = exchange.part(ranges=True)
        start = min(asked.start + shift, part.total - 1)
        headers = {"Content-Range": f"bytes {start}-{part.total - 1}/{part.total}"}
        await exchange.answer(Part(206, part.body[start:], headers=headers))

    return behave


def gzip_lie() -> Behaviour:
    """The right bytes under ``Content-Encoding: gzip``, which they are not."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.part()
        await exchange.start(part.status, len(part.body), {**part.headers, "Content-Encoding": "gzip"})
        await exchange.body(part.body)

    return behave
