"""Versions that are held from afar: for how long, by whom, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shardcast import ClientNode
from shardcast.constants import LONGEST_HOLD
from shardcast.errors import UsageError, VersionNotOffered
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.peer import server as peer
from shardcast.protocol.feed import Position
from shardcast.server import writing
from shardcast.server.application import application, serve
from shardcast.server.bounds import Bounds
from shardcast.server.routes import lease as door
from shardcast.server.routes.feed import add_feed_routes
from shardcast.server.routes.lease import add_lease_routes
from shardcast.server.routes.versions import add_version_routes
from shardcast.store import holds as holds_module
from shardcast.store.data_dir import DataDir
from shardcast.store.versions import VersionFolders
from shardcast.upstream import lease as leasing
from shardcast.upstream.lease import Lease
from tests.support import bad_answers as bad
from tests.support import processes
from tests.support.bad_servers import BadServer, Behaviour, Exchange, dead_address
from tests.support.payloads import publish, random_bytes

HTTP = "127.0.0.1", 0
NDJSON = {"Content-Type": "application/x-ndjson"}
LEASE = "/v1/lease*"
BOUND = 30.0  # seconds; whatever happens here, it has happened by then


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def until(condition: Callable[[], object], what: str = "the condition", seconds: float = BOUND) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


def holders(folders: VersionFolders, version: int = 1) -> list[str]:
    """Who holds a lease on a version."""
    return [hold.owner for hold in folders.holds.holds_on(version) if hold.kind == "lease"]


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease says so often, and thus soon notices that its holder went away."""
    monkeypatch.setattr(door, "FEED_HEARTBEAT", 0.1)


class Shelf:
    """Version folders behind the doors, by a clock that the test turns."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.clock = Clock()
        self.url = ""
        self._root, self._port = root, port

    async def __aenter__(self) -> Shelf:
        self._stack = contextlib.AsyncExitStack()
        held = DataDir(self._root, "origin")
        self._stack.callback(held.close)
        self.folders = VersionFolders(held, keep=1, clock=self.clock)
        self.folders.load(False)
        app = application(
            "0123",
            lambda app: add_version_routes(app, self.folders),
            lambda app: add_feed_routes(app, self.folders, "0123", lambda: Position("aa", 0)),
            lambda app: add_lease_routes(app, self.folders),
        )
        self.url = await self._stack.enter_async_context(serve(app, HTTP[0], self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    async with Shelf(tmp_path / "data") as running:
        await publish(running.folders, b"one")
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BadServer]:
    (tmp_path / "empty").mkdir()
    with BadServer(tmp_path / "empty") as running:
        yield running


def says(*lines: bytes, then: str = "hold") -> Behaviour:
    """An answer of these bytes; then it stays open, or ends (``end``), or breaks off (``break``)."""

    async def behave(exchange: Exchange) -> None:
        await exchange.start(200, 10**6 if then == "break" else None, NDJSON)
        for line in lines:
            await exchange.body(line)
        if then == "hold":
            await exchange.wait_for_disconnect()
        exchange.close()

    return behave


HELD = b'{"lease": "v1"}\n'


@contextlib.asynccontextmanager
async def leased(*urls: str, version: str = "v1") -> AsyncIterator[Lease]:
    async with Client(list(urls)) as client, client.lease(version) as lease:
        yield lease


async def refused(*urls: str) -> str:
    """Why no server holds v1."""

    async def enter() -> None:
        async with leased(*urls):
            raise AssertionError("it is held")

    with pytest.raises(VersionNotOffered) as error:
        await asyncio.wait_for(enter(), BOUND)
    return str(error.value)


# What it is for --------------------------------------------------------------------------------------


async def test_leased_version_stays_until_the_lease_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds_module, "RECENTLY_READ", 0.0)  # only the lease holds it
    async with (
        Origin.running(tmp_path / "o", *HTTP, keep=1) as origin,
        Middle.running([origin.url], tmp_path / "m", *HTTP, keep=1) as middle,
    ):
        await publish(origin.folders, b"one")
        await until(lambda: middle.folders.complete_numbers == {1}, "v1 at the middle")
        async with Client([origin.url, middle.url], tmp_path / "out") as client:
            async with client.lease("v1") as lease:
                assert lease.servers == {origin.url, middle.url}
                await publish(origin.folders, b"two")
                await until(lambda: 2 in middle.folders.complete_numbers, "v2 at the middle")
                for node in (origin, middle):
                    await node.folders.tidy()
                    assert node.folders.complete_numbers == {1, 2}
                release = await client.download("v1")
                assert release.path.read_bytes() == b"one"
            assert lease.servers == set()
            for node in (origin, middle):
                await until(lambda node=node: not holders(node.folders), "the lease to end")  # type: ignore[misc]
                await node.folders.tidy()
                assert node.folders.complete_numbers == {2}


async def test_status_lists_leases_and_their_ends(tmp_path: Path) -> None:
    async def status(url: str) -> Any:
        async with aiohttp.ClientSession() as web, web.get(f"{url}/status") as answer:
            return await answer.json()

    async with Origin.running(tmp_path / "data", *HTTP, keep=1) as origin:
        await publish(origin.folders, b"one")
        async with leased(origin.url):
            (version,) = (await status(origin.url))["versions"]
            (hold,) = version["held"]
            assert (hold["kind"], hold["seconds"]) == ("lease", None)
            assert hold["by"].startswith("127.0.0.1 (")
            assert socket.gethostname()[:50] in hold["by"]
            await publish(origin.folders, b"two")
            while (hold := (await status(origin.url))["versions"][0]["held"][0])["seconds"] is None:
                await asyncio.sleep(0.01)  # a costly answer is given again for a while
            assert LONGEST_HOLD - 60 < hold["seconds"] <= LONGEST_HOLD


async def test_lease_ends_ten_minutes_beyond_retention(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with leased(shelf.url) as lease:
        shelf.clock.now += 100 * LONGEST_HOLD
        await shelf.folders.tidy()
        assert shelf.folders.complete_numbers == {1}  # nothing newer is there
        await publish(shelf.folders, b"two")
        shelf.clock.now += LONGEST_HOLD - 1
        await shelf.folders.tidy()
        assert shelf.folders.complete_numbers == {1, 2}
        assert lease.servers == {shelf.url}
        assert not caplog.records
        shelf.clock.now += 1
        await shelf.folders.tidy()
        assert shelf.folders.complete_numbers == {2}
        await until(lambda: not lease.servers, "the lease to end")
        (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("shardcast")]
        assert "v1" in told
        assert shelf.url in told


async def test_lease_answer_reports_state(shelf: Shelf) -> None:
    async with aiohttp.ClientSession(shelf.url) as web, web.get("/v1/lease?holder=rack7%0A") as answer:
        assert answer.status == 200
        assert answer.content_type == "application/x-ndjson"
        assert json.loads(await answer.content.readline()) == {"lease": "v1"}
        assert holders(shelf.folders) == ["127.0.0.1 (rack7)"]
        assert json.loads(await answer.content.readline()) == {"held": "v1"}
        await shelf.folders.retire(1)
        rest = [json.loads(line) for line in (await answer.content.read()).splitlines()]
        assert "v1" in rest[-1]["ended"]
        assert all("held" in one for one in rest[:-1])
    for path in ("/v1/lease", "/v2/lease", "/v0/lease", "/v01/lease"):
        async with aiohttp.ClientSession(shelf.url) as web, web.get(path) as answer:
            assert answer.status == 404


async def test_lease_of_open_version_holds_it_when_complete(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP, keep=1) as origin:
        opened = origin.folders.open(origin.folders.data_dir.allot())
        async with leased(origin.url) as lease:
            assert len(holders(origin.folders)) == 1
            await origin.folders.discard(opened.number)
            await until(lambda: not lease.servers, "the lease to end with the version")
        await publish(origin.folders, b"two")
        async with leased(origin.url, version="v2"):
            await publish(origin.folders, b"three")
            assert origin.folders.complete_numbers == {2, 3}


async def test_two_leases_are_independent(shelf: Shelf) -> None:
    async with leased(shelf.url):
        async with leased(shelf.url):
            await until(lambda: len(holders(shelf.folders)) == 2)
        await until(lambda: len(holders(shelf.folders)) == 1)
        await publish(shelf.folders, b"two")
        assert shelf.folders.complete_numbers == {1, 2}


# How it ends -----------------------------------------------------------------------------------------

HOLDS = """
import asyncio, sys
from shardcast import Client

async def hold():
    async with Client([sys.argv[1]]) as client, client.lease("v1"):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(hold())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_lease_ends_with_its_process(number: signal.Signals, shelf: Shelf) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220  it is at once
        [sys.executable, "-c", HOLDS, shelf.url],
        env=processes.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout
        assert await asyncio.to_thread(process.stdout.readline) == b"held\n"
        assert len(holders(shelf.folders)) == 1
        process.send_signal(number)
        await until(lambda: not holders(shelf.folders), "the lease to end")
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout
        process.stdout.close()
    await publish(shelf.folders, b"two")
    assert shelf.folders.complete_numbers == {2}


@pytest.mark.parametrize("reset", [True, False])
async def test_lease_ends_with_its_connection(reset: bool, shelf: Shelf) -> None:
    with socket.create_connection(("127.0.0.1", shelf.port)) as holder:
        holder.sendall(b"GET /v1/lease HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: holders(shelf.folders), "the lease")
        if reset:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await until(lambda: not holders(shelf.folders), "the lease to end")


async def test_holder_that_takes_nothing_is_disconnected(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is there, and nobody reads it: what is said to it piles up."""
    monkeypatch.setattr(door, "FEED_HEARTBEAT", 0.001)
    monkeypatch.setattr(writing, "bounds_of", lambda request: Bounds(reader_seconds=0.5))
    send_line = door._send_line

    async def at_length(request: Any, response: Any, **said: str) -> None:
        await send_line(request, response, **{key: value + " " * 100_000 for key, value in said.items()})

    monkeypatch.setattr(door, "_send_line", at_length)
    with socket.create_connection(("127.0.0.1", shelf.port)) as holder:
        holder.sendall(b"GET /v1/lease HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: holders(shelf.folders), "the lease")
        await until(lambda: not holders(shelf.folders), "it to be dropped")


async def test_shutdown_does_not_wait_for_holders(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as clients:
        async with Origin.running(tmp_path / "data", *HTTP) as origin:
            await publish(origin.folders, b"one")
            held = [await clients.enter_async_context(leased(origin.url)) for _ in range(5)]
            begun = time.monotonic()
        assert time.monotonic() - begun < 2
        await until(lambda: not any(one.servers for one in held), "them to notice")


async def test_lost_server_is_asked_again_for_lease(tmp_path: Path) -> None:
    async with Shelf(tmp_path / "data") as first:
        await publish(first.folders, b"one")
        port, url = first.port, first.url
        stack = contextlib.AsyncExitStack()
        lease = await stack.enter_async_context(leased(url))
    async with stack:
        await until(lambda: not lease.servers, "it to be lost")
        async with Shelf(tmp_path / "data", port) as second:
            await until(lambda: lease.servers == {url}, "it to be held again")
            assert len(holders(second.folders)) == 1


async def test_version_retired_during_outage_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with contextlib.AsyncExitStack() as stack:
        async with Shelf(tmp_path / "data") as first:
            await publish(first.folders, b"one")
            port = first.port
            lease = await stack.enter_async_context(leased(first.url))
            await publish(first.folders, b"two")
        await until(lambda: not lease.servers, "it to be lost")
        held = DataDir(tmp_path / "data", "origin")
        folders = VersionFolders(held, keep=1)
        folders.load(False)
        await folders.tidy()
        assert folders.complete_numbers == {2}
        held.close()
        async with Shelf(tmp_path / "data", port):
            await until(lambda: "v1 is not held any more" in caplog.text, "a warning", 15)


async def test_busy_server_is_asked_again_for_lease(server: BadServer) -> None:
    """A proxy whose server is just being started again says 503."""
    held = threading.Event()

    async def breaks(exchange: Exchange) -> None:
        await exchange.start(200, 10**6, NDJSON)
        await exchange.body(HELD)
        while not held.is_set():  # what comes with the break may be lost with it
            await asyncio.sleep(0.01)
        exchange.close()

    answers: list[Behaviour] = [breaks, bad.error(503), bad.error(502), says(HELD)]

    async def behave(exchange: Exchange) -> None:
        await answers[min(server.requested(LEASE), len(answers)) - 1](exchange)

    server.set(LEASE, behave)
    async with leased(server.url) as lease:
        held.set()
        await until(lambda: server.requested(LEASE) == 4 and lease.servers, "it to be held again")


# Servers that hold nothing -----------------------------------------------------------------------------


async def test_lease_of_missing_version_raises_not_offered(shelf: Shelf) -> None:
    async with Client([shelf.url]) as client:
        with pytest.raises(VersionNotOffered, match="v7") as error:
            async with client.lease("v7"):
                pass
        assert shelf.url in str(error.value)
        for nonsense in ("latest", "v0", "7", "../v1", ""):
            with pytest.raises(UsageError):
                client.lease(nonsense)


async def test_old_servers_grant_no_lease(server: BadServer) -> None:
    assert server.url in await refused(server.url)
    assert server.requested(LEASE) == 1
    server.set(LEASE, bad.html())
    assert server.url in await refused(server.url)


async def test_missing_and_dead_servers_do_not_prevent_lease(shelf: Shelf, server: BadServer) -> None:
    with dead_address() as dead:
        async with leased(server.url, dead, shelf.url) as lease:
            assert lease.servers == {shelf.url}
        assert server.requested(LEASE) == 1  # what it lacks it is not asked for again
        told = await refused(server.url, dead)
        assert server.url in told
        assert dead in told


async def test_silent_server_is_not_awaited_once_another_grants_lease(
    shelf: Shelf, server: BadServer
) -> None:
    server.set(LEASE, bad.silent())
    begun = time.monotonic()
    async with leased(server.url, shelf.url) as lease:
        assert time.monotonic() - begun < 10
        assert lease.servers == {shelf.url}


def head_in_drops() -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        exchange.close()
        with contextlib.suppress(ConnectionError):
            for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"a" * 1000:
                await exchange.send(bytes([byte]))
                await asyncio.sleep(0.2)

    return behave


@pytest.mark.parametrize(
    "behaviour",
    [
        says(then="end"),
        says(then="break"),
        says(b"junk\n"),
        says(b"[1]\n"),
        says(b"[" * 60_000 + b"\n"),
        says(b"\xff\xfe\n"),
        says(b'{"ended": "no"}\n'),
        bad.closed(),
        bad.error(500),
        bad.redirect_loop(),
    ],
    ids=["nothing", "broken off", "junk", "a list", "deep", "bytes", "ended", "closed", "500", "redirects"],
)
async def test_malformed_lease_answer_grants_nothing(behaviour: Behaviour, server: BadServer) -> None:
    server.set(LEASE, behaviour)
    assert server.url in await refused(server.url)


async def test_lease_request_times_out(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "FEED_DEAD", 0.5)
    monkeypatch.setattr(leasing, "FEED_DEAD", 0.5, raising=False)
    for behaviour in (bad.silent(), head_in_drops()):
        server.set(LEASE, behaviour)
        assert server.url in await refused(server.url)


async def test_endless_line_grants_no_lease(server: BadServer) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.start(200, None, NDJSON)
        while True:
            await exchange.send(b"x" * 16_000)

    server.set(LEASE, behave)

    async def enter() -> None:
        async with leased(server.url) as lease:
            await until(lambda: not lease.servers, "it to be given up")

    with contextlib.suppress(VersionNotOffered):
        await asyncio.wait_for(enter(), BOUND)
    assert server.sent_bytes(LEASE) < 20_000_000


async def test_flooding_server_does_not_slow_others(server: BadServer) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.start(200, None, NDJSON)
        with contextlib.suppress(ConnectionError):
            while True:
                await exchange.send(b"{}\n" * 20_000)

    server.set(LEASE, behave)
    async with leased(server.url):
        used = time.thread_time()
        await asyncio.sleep(2)
        assert time.thread_time() - used < 0.5


@pytest.mark.parametrize("line", [HELD, b""], ids=["a line", "nothing"])
async def test_server_that_ends_leases_at_once_gets_backoff(
    line: bytes, server: BadServer, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.set(LEASE, says(line, then="end"))
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds > 0.05:
            pauses.append(seconds)
        await asyncio.sleep(min(seconds, 0.01))

    async with Client([server.url, shelf.url]) as client:
        lease = Lease("v1", list(client._downloads.peers.values()), "a test", sleep=sleep)
        async with lease:
            await until(lambda: len(pauses) >= 12)
    assert min(pauses[8:]) >= 5.0
    assert server.requested(LEASE) <= len(pauses) + 1


# In threads -----------------------------------------------------------------------------------------


async def test_blocking_lease_holds_version_for_a_block(shelf: Shelf, tmp_path: Path) -> None:
    def hold(work: Callable[[], None]) -> None:
        with ClientNode([shelf.url], tmp_path / "out").lease("v1"):
            work()

    def look() -> None:
        assert len(holders(shelf.folders)) == 1

    await asyncio.to_thread(hold, look)
    await until(lambda: not holders(shelf.folders), "the lease to end")


async def test_exception_in_block_ends_lease_and_is_raised(shelf: Shelf) -> None:
    def hold() -> None:
        with ClientNode([shelf.url]).lease("v1"):
            assert len(holders(shelf.folders)) == 1
            raise ZeroDivisionError("the block's own")

    with pytest.raises(ZeroDivisionError, match="the block's own"):
        await asyncio.to_thread(hold)
    await until(lambda: not holders(shelf.folders), "the lease to end")
    with pytest.raises(ZeroDivisionError):
        async with leased(shelf.url):
            raise ZeroDivisionError
    await until(lambda: not holders(shelf.folders), "the lease to end")


async def test_blocking_lease_raises_when_refused(shelf: Shelf) -> None:
    def hold(version: str) -> None:
        with ClientNode([shelf.url]).lease(version):
            raise AssertionError("it is held")

    with pytest.raises(VersionNotOffered, match="v7"):
        await asyncio.to_thread(hold, "v7")
    with pytest.raises(UsageError):
        await asyncio.to_thread(hold, "latest")


async def test_many_threads_hold_leases_at_once(shelf: Shelf) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        with ClientNode([shelf.url]).lease("v1"):
            asyncio.run_coroutine_threadsafe(all_there(), loop).result(BOUND)

    async def all_there() -> None:
        if len(holders(shelf.folders)) == 5:
            ready.set()
        await ready.wait()

    work: list[Awaitable[None]] = [asyncio.to_thread(hold) for _ in range(5)]
    await asyncio.wait_for(asyncio.gather(*work), BOUND)
    await until(lambda: not holders(shelf.folders), "the leases to end")


async def test_download_under_lease_gets_leased_version(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP, keep=1) as origin:
        data = random_bytes(100_000)
        await publish(origin.folders, data)

        def hold() -> bytes:
            client = ClientNode([origin.url], tmp_path / "out")
            with client.lease("v1"):
                asyncio.run_coroutine_threadsafe(publish(origin.folders, b"two"), loop).result(BOUND)
                path = client.download_version("v1")
                assert path
                return Path(path).read_bytes()

        loop = asyncio.get_running_loop()
        assert await asyncio.to_thread(hold) == data
