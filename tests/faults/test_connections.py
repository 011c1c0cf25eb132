"""The bounds of a listener: connections of one address, requests ahead, bodies, memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shardcast import server
from shardcast.addresses import parse_networks
from shardcast.blobs.server.hash_routes.bodies import delay_continue, read_wanted_body
from shardcast.errors import UsageError
from shardcast.server import bodies
from shardcast.server.application import application, serve
from shardcast.server.bodies import read_body
from shardcast.server.bounds import SMALL_BODY, Address, Bounds
from shardcast.server.connections import CONNECTIONS, Connections
from tests.support.archives import wait_until

MIB = 1 << 20
CHUNKED = "Transfer-Encoding: chunked"


@dataclass(frozen=True)
class CountingLoopback(Bounds):
    """Counts the connections of this machine, too."""

    def counted_address(self, host: str) -> Address | None:
        return ipaddress.ip_address(host)


@dataclass
class Server:
    port: int
    connections: Connections

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(
        self, sent: bytes = b"", host: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        local = (host, 0) if host else None
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=local)
        writer.write(sent)
        return reader, writer


@asynccontextmanager
async def serving(bounds: Bounds) -> AsyncIterator[Server]:
    """A server with a route that reads a body, one with a large answer, and one whose answer stays open."""

    async def take(request: web.Request) -> web.StreamResponse:
        return web.Response(text=str(len(await read_body(request, 4 * MIB))))

    async def give(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(8 * MIB))

    async def stay(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"here\n")
        await ended.wait()
        return response

    ended = asyncio.Event()
    app = application("0123", bounds=bounds, as_sent=True)
    app.router.add_post("/take", take)
    app.router.add_get("/give", give)
    app.router.add_get("/stay", stay)
    async with serve(app, "127.0.0.1", 0) as url:
        try:
            yield Server(int(url.rpartition(":")[2]), app[CONNECTIONS])
        finally:
            ended.set()


async def over(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side ends the connection."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 20)
    return b""


# Connections of one address


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("fd00::1", "fd00::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("127.0.0.1", None),
        ("127.0.0.9", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("10.1.2.3", None),
        ("::ffff:10.1.2.3", None),
        ("fd01::7", None),
        ("", None),
    ],
)
def test_loopback_and_trusted_proxies_are_not_counted(host: str, counted: str | None) -> None:
    bounds = Bounds(trusted=parse_networks("10.1.0.0/16, fd01::7"))
    assert bounds.counted_address(host) == (counted and ipaddress.ip_address(counted))


def test_malformed_networks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"10\.0\.0\.0/40"):
        parse_networks("10.0.0.7,10.0.0.0/40")


async def test_connections_of_one_address_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(CountingLoopback(connections=3)) as server, contextlib.AsyncExitStack() as stack:

        async def come(host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await server.connect(b"GET /stay HTTP/1.1\r\nHost: x\r\n\r\n", host)
            stack.callback(writer.close)
            return reader, writer

        first = [await come("127.0.0.2") for _ in range(3)]
        for reader, _ in first:
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        for _ in range(2):
            assert await over((await come("127.0.0.2"))[0]) == b""
        assert caplog.text.count("127.0.0.2 has 3 connections") == 1, "told once"
        other, _ = await come("127.0.0.3")
        assert await other.readline() == b"HTTP/1.1 200 OK\r\n"
        first[0][1].close()
        await wait_until(lambda: server.connections._open[ipaddress.ip_address("127.0.0.2")] == 2)
        again, _ = await come("127.0.0.2")
        assert await again.readline() == b"HTTP/1.1 200 OK\r\n"
    assert not server.connections._open and not server.connections._watches


# Requests


async def test_requests_ahead_of_an_open_answer_are_bounded() -> None:
    """Thirty-two heads of a megabyte each are kept otherwise, for as long as the answer stays open."""
    async with serving(Bounds()) as server:
        reader, writer = await server.connect(b"GET /stay HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"here\n")
        more = b"GET /stay HTTP/1.1\r\nHost: x\r\n" + b"X: %s\r\n" % (b"x" * 8000) * 100 + b"\r\n"
        with contextlib.suppress(ConnectionError):
            writer.write(more)
            await writer.drain()
        assert await over(reader) == b""
        writer.close()


async def test_a_few_requests_ahead_are_answered() -> None:
    async with serving(Bounds()) as server:
        reader, writer = await server.connect(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        for _ in range(20):
            assert b" 404 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"404: Not Found")
        writer.close()


async def test_requests_ahead_of_one_answer_do_not_count_at_the_next() -> None:
    """A client that always sends one request ahead is no flood, however long it stays."""
    async with serving(Bounds()) as server:
        head = b"GET /give HTTP/1.1\r\nHost: x\r\n" + b"X: %s\r\n" % (b"x" * 8000) * 3 + b"\r\n"
        reader, writer = await server.connect(head)
        for _ in range(4):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(head)  # the answer before it is not taken yet
            await reader.readexactly(8 * MIB)
        writer.close()


async def test_sender_waiting_for_100_continue_is_not_too_slow() -> None:
    clock, wanted, going_on = Clock(), asyncio.Event(), asyncio.Event()

    async def take(request: web.Request) -> web.StreamResponse:
        await wanted.wait()
        going_on.set()
        return web.Response(body=await read_wanted_body(request, 100))

    app = application("0123", bounds=Bounds(body_seconds=10), as_sent=True)
    app.router.add_put("/take", take, expect_handler=delay_continue)
    connections = app[CONNECTIONS]
    connections._clock = clock
    async with serve(app, "127.0.0.1", 0) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"PUT /take HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        await wait_until(lambda: any(one.request for one in connections._watches.values()))
        for _ in range(3):
            clock.now += 20
            connections.check()
        wanted.set()
        await going_on.wait()
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await reader.readuntil(b"abc")).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"12345"])
async def test_stalled_body_is_answered_with_408(sent: bytes) -> None:
    async with serving(Bounds(body_seconds=0.3)) as server:
        head = b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        reader, writer = await server.connect(head + sent)
        assert (await over(reader)).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_large_body_reserves_memory_and_small_one_does_not() -> None:
    async with serving(Bounds(all_bytes=MIB)) as server, aiohttp.ClientSession(server.url) as session:
        length = MIB
        head = f"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
        reader, writer = await server.connect(head + bytes(length - 1))
        await wait_until(lambda: server.connections._memory.used == length - 1)
        async with session.post("/take", data=bytes(length)) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
        async with session.post("/take", data=bytes(SMALL_BODY)) as answer:
            assert answer.status == 200
        writer.write(b"\0")
        assert b" 200 " in await reader.readline()
        await wait_until(lambda: server.connections._memory.used == 0)
        async with session.post("/take", data=bytes(length)) as answer:
            assert await answer.text() == str(length)
        writer.close()


async def test_refused_body_is_not_kept_in_memory() -> None:
    """aiohttp keeps the refusal, which is an exception, while it passes over the rest of the body."""
    async with serving(Bounds(all_bytes=4 * MIB)) as server, contextlib.AsyncExitStack() as stack:
        head = f"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: {4 * MIB}\r\n\r\n".encode()
        _, first = await server.connect(head + bytes(3 * MIB))
        stack.callback(first.close)
        await wait_until(lambda: server.connections._memory.used == 3 * MIB)
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(8):
            reader, writer = await server.connect(head + bytes(MIB) + b"\0")
            stack.callback(writer.close)
            assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        gc.collect()
        kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, bodies.__file__)])
        assert sum(one.size for one in kept.statistics("filename")) < MIB


@pytest.mark.parametrize("framing", ["Content-Length: 5000000", CHUNKED])
async def test_too_large_body_is_not_read(framing: str) -> None:
    async with serving(Bounds(body_seconds=5)) as server:
        reader, writer = await server.connect(f"POST /take HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        if framing == CHUNKED:  # else it is known before anything comes
            with contextlib.suppress(ConnectionError):
                for _ in range(5):
                    writer.write(b"f4240\r\n" + bytes(1_000_000) + b"\r\n")
                    await writer.drain()
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()


# Answers


def deaf(server: Server) -> socket.socket:
    """A client that asks for much, and takes nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.port))
    client.sendall(b"GET /give HTTP/1.1\r\nHost: x\r\n\r\n")
    return client


async def test_unread_answer_costs_little_memory() -> None:
    async with serving(Bounds(reader_seconds=0.5)) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            stack.enter_context(deaf(server))
        most = 0

        def all_gone() -> bool:
            nonlocal most
            most = max(most, *(one.unsent for one in server.connections._watches.values()), 0)
            return bool(most) and not server.connections._watches

        await wait_until(all_gone)
        assert most <= 192 << 10


async def test_longest_stalled_readers_are_closed_when_memory_is_short() -> None:
    clock = Clock()
    async with serving(Bounds(all_bytes=3 * (64 << 10))) as server, contextlib.AsyncExitStack() as stack:
        watches = server.connections._watches
        server.connections._clock = clock
        for count in range(1, 4):
            stack.enter_context(deaf(server))
            await wait_until(lambda count=count: sum(one.unsent > 0 for one in watches.values()) == count)
            clock.now += 1
        oldest = min(watches.values(), key=lambda one: one.taken_at)
        unsent = sum(one.unsent for one in watches.values())
        assert unsent > 3 * (64 << 10)
        server.connections.check()
        assert oldest.transport.is_closing()
        assert sum(one.unsent for one in watches.values() if not one.transport.is_closing()) <= 3 * (64 << 10)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# Nobody goes round them


@pytest.mark.parametrize(
    ("call", "only_in"),
    [
        (r"request\.(read|json|text|post|multipart)\(\)|content\.(read\w*|iter_\w+)\(", {"bodies.py"}),
        (r"await read_json_line\(", {"callers.py", "publish.py"}),  # at the owner's socket, which stays open
        (r"response\.write\(", {"writing.py"}),
    ],
)
def test_bodies_and_answers_go_through_bounded_functions(call: str, only_in: set[str]) -> None:
    folder = Path(server.__file__).parent
    found = {path.name for path in folder.rglob("*.py") if re.search(call, path.read_text())}
    assert found == only_in


# Settings


def test_bounds_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, tuple[str, Any]] = {
        "head_seconds": ("HEAD_TIMEOUT", 1.0),
        "idle_seconds": ("KEEP_ALIVE", 2.0),
        "body_seconds": ("BODY_TIMEOUT", 3.0),
        "body_pace": ("BODY_PACE", 4),
        "reader_seconds": ("STALLED_READER", 5.0),
        "body_bytes": ("BODY_MEMORY", 6),
        "all_bytes": ("LISTENER_MEMORY", 7),
        "connections": ("CONNECTIONS_PER_ADDRESS", 8),
    }
    for setting, value in names.values():
        monkeypatch.setattr(f"shardcast.constants.{setting}", value)
    monkeypatch.setattr("shardcast.constants.TRUSTED_PROXY", "10.0.0.7")
    bounds = Bounds()
    assert [getattr(bounds, name) for name in names] == [value for _, value in names.values()]
    assert bounds.trusted == parse_networks("10.0.0.7")
