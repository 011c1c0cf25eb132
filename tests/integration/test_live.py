"""Versions that are read while they are being made."""

from __future__ import annotations

import array
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import shardcast
from shardcast.concurrency import cancel
from shardcast.control.writer import BroadcastWriter
from shardcast.errors import (
    NodeFailed,
    ShardcastError,
    TransferFailed,
    UsageError,
    VersionAborted,
)
from shardcast.nodes import fetching as relaying
from shardcast.nodes.client import Client, Release
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.nodes.publisher import PendingBroadcast
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.server import sending
from shardcast.server.application import application, serve
from shardcast.server.routes import versions as versions_door
from shardcast.server.routes.versions import add_version_routes
from shardcast.store.data_dir import DataDir
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.shard_files import ShardFiles
from shardcast.store.versions import VersionFolders
from shardcast.transfer.workers import Transfer
from shardcast.upstream import manifests
from shardcast.upstream.manifests import read_live
from tests.support import bad_answers as bad
from tests.support import payloads, processes
from tests.support.bad_servers import BadServer, Behaviour, Exchange
from tests.support.legacy import get, listed
from tests.support.processes import wait_until
from tests.support.published import publish, random_bytes

SHARD = 300_000
DATA = random_bytes(5 * SHARD + 1000)
LANDING = {"Shardcast-Accept": "landing"}
HTTP = "127.0.0.1", 0
OTHER, USAGE, INTERRUPTED = 1, 2, 130


async def until(condition: Callable[[], object], what: str = "the condition", seconds: float = 30) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


# Everything in this process -----------------------------------------------------------------------


class Pipe:
    """A broadcast of what is written here."""

    def __init__(self) -> None:
        readable, writable = os.pipe()
        self.source = os.fdopen(readable, "rb", buffering=0)
        self._sink = os.fdopen(writable, "wb", buffering=0)

    async def write(self, data: bytes) -> None:
        def pour() -> None:
            view = memoryview(data)
            while view:
                view = view[self._sink.write(view) :]

        await asyncio.to_thread(pour)

    def end(self) -> None:
        self._sink.close()


@contextlib.asynccontextmanager
async def streaming(
    origin: Origin, metadata: Mapping[str, object] | None = None
) -> AsyncIterator[tuple[PendingBroadcast, Pipe]]:
    pipe = Pipe()
    try:
        yield await origin.publish_stream(pipe.source, "model.bin", SHARD, metadata=metadata), pipe
    finally:
        pipe.end()


async def publish_small(origin: Origin, file: Path) -> None:
    file.write_bytes(random_bytes(1000))
    await (await origin.publish(file)).result()


class Following:
    """A client of this process that follows."""

    def __init__(self, urls: list[str], folder: Path, check_interval: float = 600) -> None:
        self.releases: list[Release] = []
        self.transfers: list[Transfer] = []
        self.folder = folder
        self._urls = urls
        self._interval = check_interval

    async def __aenter__(self) -> Following:
        self._task = asyncio.ensure_future(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def _follow(self) -> None:
        async with Client(self._urls, self.folder) as client:
            async for release in client.follow(
                check_interval=self._interval, watch=self.transfers.append, latest=False
            ):
                self.releases.append(release)

    @property
    def done(self) -> int:
        return self.transfers[-1].progress.done if self.transfers else 0

    @property
    def files(self) -> set[str]:
        """What lies in its folder, but for records and the manifests beside them."""
        found = {entry.name for entry in self.folder.iterdir()} if self.folder.exists() else set()
        kept = {f".{name}{end}" for name in found for end in (".record", ".manifest")}
        return {name for name in found - kept if ".shardcast-lines" not in name and ".record" not in name}

    async def has(self, *versions: str) -> None:
        await until(lambda: len(self.releases) >= len(versions) or self._task.done(), f"{versions}")
        assert [one.version for one in self.releases] == list(versions)


async def test_shards_reach_follower_while_writer_writes(tmp_path: Path) -> None:
    async with (
        Origin.running(tmp_path / "origin", *HTTP) as origin,
        Middle.running([origin.url], tmp_path / "m1", *HTTP, check_interval=600) as first,
        Middle.running([first.url], tmp_path / "m2", *HTTP, check_interval=600) as second,
        Following([second.url], tmp_path / "got") as follower,
        streaming(origin, {"step": 7}) as (broadcast, pipe),
    ):
        for number, start in enumerate(range(0, len(DATA) - 1000, SHARD)):
            await pipe.write(DATA[start : start + SHARD])
            await until(lambda: origin.folders.verified_counts("v1")[0] > number)  # noqa: B023  it is now's
            await until(lambda: follower.done >= number * SHARD, f"shard {number}")  # noqa: B023
        await pipe.write(DATA[-1000:])
        for node in (origin, first, second):
            assert node.folders.distribution() == b""
            assert not node.folders.complete_numbers
        assert follower.files == {".download_v1.bin.part", ".download_v1.bin.part.manifest"}
        pipe.end()
        await broadcast.result()
        await follower.has("v1")
        release = follower.releases[0]
        assert release.path.read_bytes() == DATA
        assert dict(release.manifest.header.metadata) == {"step": 7}
        assert follower.files == {"download_v1.bin"}
        # The last one may have verified the whole payload before the first one has.
        for node in (first, second):
            await until(lambda node=node: node.folders.listings == origin.folders.listings)  # type: ignore[misc]
        raw = [node.folders.data_dir.manifest(1).read_bytes() for node in (origin, first, second)]
        assert raw[0] == raw[1] == raw[2] == release.manifest.raw


async def test_whole_shard_is_served_while_writer_pauses(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "origin", *HTTP) as origin, streaming(origin) as (_, pipe):
        await pipe.write(DATA[: SHARD + 10])
        await until(lambda: origin.folders.verified_counts("v1")[0] == 1, "the shard")
        await until(lambda: origin.folders.shard("v1", 1), "its line", 2)


async def test_late_client_gets_whole_open_version(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "origin", *HTTP) as origin:  # noqa: SIM117
        async with streaming(origin) as (broadcast, pipe):
            await pipe.write(DATA[: 3 * SHARD + 10])
            await until(lambda: origin.folders.verified_counts("v1")[0] == 3)
            async with (
                Middle.running([origin.url], tmp_path / "m", *HTTP) as middle,
                Following([middle.url, origin.url], tmp_path / "got") as follower,
            ):
                await until(lambda: follower.done >= 2 * SHARD)
                await pipe.write(DATA[3 * SHARD + 10 :])
                pipe.end()
                await broadcast.result()
                await follower.has("v1")
                assert follower.releases[0].path.read_bytes() == DATA


async def test_client_without_follow_sees_only_complete_versions(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "origin", *HTTP) as origin:  # noqa: SIM117
        async with streaming(origin) as (broadcast, pipe), Client([origin.url]) as client:
            await pipe.write(DATA)
            await until(lambda: origin.folders.verified_counts("v1")[0] == 5)
            assert await client.listings() == ()
            with pytest.raises(shardcast.VersionNotOffered):
                await client.download("v1", tmp_path / "got")
            pipe.end()
            await broadcast.result()
            assert (await client.download("v1", tmp_path / "got")).path.read_bytes() == DATA


async def test_aborted_broadcast_leaves_nothing_on_any_node(tmp_path: Path) -> None:
    async with (
        Origin.running(tmp_path / "origin", *HTTP) as origin,
        Middle.running([origin.url], tmp_path / "m1", *HTTP, check_interval=600) as first,
        Middle.running([first.url], tmp_path / "m2", *HTTP, check_interval=600) as second,
        Following([second.url], tmp_path / "got") as follower,
    ):
        async with streaming(origin) as (broadcast, pipe):
            await pipe.write(DATA)
            await until(lambda: follower.done >= 4 * SHARD)
            broadcast.cancel()
            with pytest.raises(ShardcastError):
                await broadcast.result()
        nodes = (origin, first, second)
        await until(lambda: not any(node.folders.data_dir.numbers() for node in nodes), "no folders")
        await until(lambda: not follower.files, "no .part")
        async with streaming(origin) as (broadcast, pipe):
            assert broadcast.version == "v2"
            await pipe.write(DATA)
            pipe.end()
            await follower.has("v2")
        for node in nodes:
            await until(lambda node=node: node.folders.complete_numbers == {2})  # type: ignore[misc]
            assert not list(node.folders.data_dir.verified.glob("v1"))


async def test_abort_while_committing_a_shard_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread of the middle gives a shard its name while others say that the version is no more."""
    begun, under_way, done = threading.Event(), set[ShardFiles](), list[str]()
    commit_shard, discard = ShardFiles.commit_shard, OpenVersion.discard

    def slowly(self: ShardFiles, *words: Any) -> None:
        under_way.add(self)
        begun.set()
        time.sleep(0.1)
        commit_shard(self, *words)
        under_way.discard(self)

    def after_it(self: OpenVersion) -> None:
        done.append("meanwhile" if self.files in under_way else "after it")
        discard(self)

    async with (
        Origin.running(tmp_path / "origin", *HTTP) as origin,
        Middle.running([origin.url], tmp_path / "m", *HTTP, check_interval=600) as middle,
    ):
        async with streaming(origin) as (broadcast, pipe):
            monkeypatch.setattr(ShardFiles, "commit_shard", slowly)
            monkeypatch.setattr(OpenVersion, "discard", after_it)
            await pipe.write(DATA)
            await until(begun.is_set)
            broadcast.cancel()
            with pytest.raises(ShardcastError):
                await broadcast.result()
        await until(lambda: not middle.folders.data_dir.numbers(), "no folder")
    assert not [one for one in caplog.records if one.exc_info], caplog.text
    assert set(done) == {"after it"}


async def test_middle_serves_landing_shard(tmp_path: Path) -> None:
    """The origin's answer stops after some pieces of a shard; those must be had from the middle."""
    one = publish(tmp_path / "origin", DATA, len(DATA))
    server = live_server(one.data_dir, one.manifest.raw.splitlines(keepends=True)[:-1])
    opened = threading.Event()

    async def half(exchange: Exchange) -> None:
        part = exchange.right_answer()
        await exchange.start(part.status, len(part.body), part.headers)
        for start in range(0, 600 * 1024, 16 * 1024):
            await exchange.body(part.body[start : start + 16 * 1024])
            await asyncio.sleep(0.01)
        while not opened.is_set():
            await asyncio.sleep(0.01)
        await exchange.body(part.body[600 * 1024 :])

    server.set("/v1/shard_*", half)
    with server:
        async with Middle.running([server.url], tmp_path / "m", *HTTP) as middle, Web(middle.url) as web:
            await until(lambda: middle.folders.landing("v1", 1), "the landing")
            async with web.get("/v1/shard_001.bin", headers=LANDING) as answer:
                assert answer.headers["Shardcast-State"] == "landing"
                assert await answer.content.readexactly(256 * 1024) == DATA[: 256 * 1024]
                assert not middle.folders.verified_counts("v1")[0]
                opened.set()
                assert await answer.read() == DATA[256 * 1024 :]
            await until(lambda: middle.folders.verified_counts("v1")[0])


def test_closing_line_is_written_once_even_when_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = LiveManifest.add

    def slow(self: LiveManifest, lines: bytes) -> None:
        add(self, lines)
        if self.manifest and threading.current_thread() is not threading.main_thread():
            time.sleep(0.5)

    async def carry_out() -> None:
        async with (
            Origin.running(tmp_path / "origin", *HTTP) as origin,
            Middle.running([origin.url], tmp_path / "m", *HTTP) as middle,
        ):
            async with streaming(origin) as (broadcast, pipe):
                await pipe.write(DATA)
                await until(lambda: middle.folders.verified_counts("v1")[0] >= 1)
                pipe.end()
                await broadcast.result()
            await until(lambda: middle.folders.complete_numbers)

    monkeypatch.setattr(LiveManifest, "add", slow)
    asyncio.run(carry_out())
    raw = [(tmp_path / node / "v1" / "manifest.jsonl").read_bytes() for node in ("origin", "m")]
    assert raw[0] == raw[1]


# The doors ------------------------------------------------------------------------------------------


class Web:
    """Plain requests to one server."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(self._url, timeout=aiohttp.ClientTimeout(60))
        return self._session

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()


@contextlib.asynccontextmanager
async def shelf(tmp_path: Path) -> AsyncIterator[tuple[VersionFolders, aiohttp.ClientSession]]:
    held = DataDir(tmp_path / "data", "middle")
    folders = VersionFolders(held)
    folders.load(True)
    try:
        app = application("0123", lambda app: add_version_routes(app, folders))
        async with serve(app, *HTTP) as url, Web(url) as web:
            yield folders, web
            folders.events.close()
    finally:
        held.close()


MADE = payloads.manifest(random_bytes(10 * payloads.PIECE))
LINES = MADE.raw.splitlines(keepends=True)
FIRST = random_bytes(10 * payloads.PIECE)[: payloads.SHARD]


async def test_open_manifest_is_sent_line_by_line_until_closed(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (folders, web):
        opened = await folders.begin_version(1, LiveManifest("v1"))
        async with web.get("/v1/manifest.jsonl") as answer:
            assert answer.status == 200
            for line in LINES:
                await asyncio.to_thread(opened.append_manifest, line)
                assert await answer.content.readline() == line
            assert await answer.content.read() == b""


async def test_aborted_open_manifest_ends_with_abort_line(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (folders, web):
        opened = await folders.begin_version(1, LiveManifest("v1"))
        opened.append_manifest(b"".join(LINES[:2]))
        async with web.get("/v1/manifest.jsonl") as answer:
            assert [await answer.content.readline() for _ in range(2)] == LINES[:2]
            await folders.discard(1)
            assert json.loads(await answer.content.readline()).keys() == {"aborted"}
            assert await answer.content.read() == b""
        async with web.get("/v1/manifest.jsonl") as answer:
            assert answer.status == 404


async def test_failed_open_manifest_ends_without_closing_line(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (folders, web):
        opened = await folders.begin_version(1, LiveManifest("v1"))
        opened.append_manifest(LINES[0])
        async with web.get("/v1/manifest.jsonl") as answer:
            assert await answer.content.readline() == LINES[0]
            opened.live.fail(TransferFailed("stalled"))
            assert await answer.content.read() == b""
        async with web.get("/v1/manifest.jsonl") as answer:
            assert answer.status == 503
            assert "Retry-After" in answer.headers


async def test_shutdown_ends_open_manifests_at_once(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin.running(tmp_path / "origin", *HTTP))
        opened = await origin.folders.begin_version(1, LiveManifest("v1"))
        opened.append_manifest(LINES[0])
        async with Web(origin.url) as web, web.get("/v1/manifest.jsonl") as answer:
            assert await answer.content.readline() == LINES[0]
            began = time.monotonic()
            ending = asyncio.ensure_future(stack.aclose())
            assert await answer.content.read() == b""
            assert time.monotonic() - began < 1
        await ending
        assert time.monotonic() - began < 2


async def test_landing_is_sent_by_pieces_and_breaks_off_on_close(tmp_path: Path) -> None:
    piece = payloads.PIECE
    async with shelf(tmp_path) as (folders, web):
        opened = await folders.begin_version(1, LiveManifest("v1"))
        opened.append_manifest(b"".join(LINES[:2]))
        landing = await opened.landing(opened.live.shards[0])
        tag = f'"{opened.live.shards[0].sha256}"'
        async with web.get("/v1/shard_001.bin") as answer:
            assert answer.status == 404
        async with web.get("/v1/shard_001.bin", headers={**LANDING, "If-Match": '"other"'}) as answer:
            assert answer.status == 412
        async with web.get("/v1/shard_001.bin", headers={**LANDING, "If-None-Match": tag}) as answer:
            assert answer.status == 304
        async with web.head("/v1/shard_001.bin", headers=LANDING) as answer:
            assert (answer.status, answer.content_length) == (200, payloads.SHARD)
            assert answer.headers["Shardcast-State"] == "landing"
        wanted = {"Range": f"bytes={piece}-{2 * piece - 1}", "If-Match": tag, **LANDING}
        async with (
            web.get("/v1/shard_001.bin", headers=LANDING) as whole,
            web.get("/v1/shard_001.bin", headers=wanted) as part,
        ):
            assert (whole.status, part.status) == (200, 206)
            assert whole.headers["ETag"] == tag
            await landing.land(piece, FIRST[piece : 2 * piece])
            assert await part.read() == FIRST[piece : 2 * piece]
            await landing.land(0, FIRST[:piece])
            assert await whole.content.readexactly(2 * piece) == FIRST[: 2 * piece]
            landing.close()
            with pytest.raises(aiohttp.ClientError):
                await whole.read()
        async with web.get("/v1/shard_001.bin", headers=LANDING) as answer:
            assert answer.status == 503


async def test_reader_of_stalled_landing_is_released_after_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "HTTP_TIMEOUT", 0.2)
    async with shelf(tmp_path) as (folders, web):
        opened = await folders.begin_version(1, LiveManifest("v1"))
        opened.append_manifest(b"".join(LINES[:2]))
        landing = await opened.landing(opened.live.shards[0])
        await landing.land(0, FIRST[: payloads.PIECE])
        async with web.get("/v1/shard_001.bin", headers=LANDING) as answer:
            assert await answer.content.readexactly(payloads.PIECE) == FIRST[: payloads.PIECE]
            with pytest.raises(aiohttp.ClientError):
                await asyncio.wait_for(answer.read(), 10)
        landing.close()


async def test_request_waits_a_while_for_unstarted_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions_door, "LANDING_WAIT", 0.3)
    async with shelf(tmp_path) as (folders, web):
        opened = await folders.begin_version(1, LiveManifest("v1"))
        opened.append_manifest(b"".join(LINES[:2]))
        async with web.get("/v1/shard_001.bin", headers=LANDING) as answer:
            assert answer.status == 503
            assert "Retry-After" in answer.headers
        monkeypatch.setattr(versions_door, "LANDING_WAIT", 30)
        asking = asyncio.ensure_future(web.get("/v1/shard_001.bin", headers=LANDING))
        await until(lambda: opened.notifier._waiting, "the request to wait")
        landing = await opened.landing(opened.live.shards[0])
        await landing.land(0, FIRST)
        await opened.commit_shard(landing)
        landing.close()
        async with await asking as answer:
            assert await answer.read() == FIRST
        async with web.get("/v1/shard_001.bin") as answer:
            assert (answer.status, answer.headers["Shardcast-State"]) == (200, "whole")


# Units ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.0, 0.001])
@pytest.mark.parametrize("at_once", [1, 3, 10])
async def test_each_shard_arrives_once_at_any_timing(pause: float, at_once: int) -> None:
    made = payloads.manifest(random_bytes(20 * payloads.SHARD))
    lines = made.raw.splitlines(keepends=True)
    live = LiveManifest("v1")

    def grow() -> None:
        for start in range(0, len(lines), at_once):
            live.add(b"".join(lines[start : start + at_once]))
            time.sleep(pause)

    growing = asyncio.ensure_future(asyncio.to_thread(grow))

    async def read() -> list[int]:
        return [shard.number async for shard in live.iterate_shards()]

    assert await asyncio.wait_for(asyncio.gather(read(), read()), 30) == [list(range(1, 21))] * 2
    await growing
    assert (live.manifest, bytes(live.raw)) == (made, made.raw)
    live.fail(TransferFailed("too late"))
    assert live.error is None


async def test_live_manifest_continues_after_failure() -> None:
    live, seen = LiveManifest("v1"), []
    live.add(b"".join(LINES[:2]))
    live.fail(TransferFailed("stalled"))
    with pytest.raises(TransferFailed, match="stalled"):
        async for shard in live.iterate_shards():
            seen.append(shard.number)
    live.resume()
    live.add(b"".join(LINES[2:]))
    assert seen == [1]
    assert [shard.number async for shard in live.iterate_shards()] == [1, 2, 3]


async def test_live_manifest_without_header_raises_reason() -> None:
    live = LiveManifest("v1")
    waiting = asyncio.ensure_future(live.wait_header())
    await asyncio.sleep(0)
    live.abort("no more")
    with pytest.raises(VersionAborted, match="no more"):
        await waiting


# Liars ------------------------------------------------------------------------------------------------


OPEN_V1: dict[str, object] = {"seq": 1, "event": "open", "version": "v1"}


def live_server(
    data_dir: Path,
    lines: list[bytes],
    then: Behaviour | None = None,
    events: Sequence[Mapping[str, object]] = (OPEN_V1,),
    origin: str = "o",
    listed: str | None = None,
) -> BadServer:
    """A server on which v1 is open: it says these lines of its manifest, and then (``then``) nothing. It
    lists v1 with the digest ``listed`` a second later."""

    async def feed(exchange: Exchange) -> None:
        await exchange.start(200, None, {"Content-Type": "application/x-ndjson"})
        for line in (
            {"feed": "f", "node": "n", "origin": origin, "distance": 0, "now": True},
            *events,
            {"seq": 1},
        ):
            await exchange.send(json.dumps(line).encode() + b"\n")
        while True:
            await asyncio.sleep(1)
            if listed:
                told = {"seq": 2, "event": "complete", "version": "v1", "digest": listed, "shards": 5}
                await exchange.send(json.dumps(told).encode() + b"\n")
            await exchange.send(b'{"seq": 2}\n' if listed else b'{"seq": 1}\n')

    async def manifest(exchange: Exchange) -> None:
        await exchange.start(200, None, {"Content-Type": "application/x-ndjson"})
        await exchange.send(b"".join(lines))
        if then:
            await then(exchange)
        else:
            await exchange.wait_for_disconnect()

    async def empty(exchange: Exchange) -> None:
        await exchange.start(200, 0, {"Content-Type": "text/plain"})

    server = BadServer(data_dir).set("/feed*", feed).set("/v1/manifest.jsonl", manifest)
    return server.set("/distribution.txt", empty)


async def read(live: LiveManifest, *servers: BadServer, enough: Callable[[], object] = lambda: False) -> None:
    """Read an open manifest until that ends, or it is ``enough``."""

    async def take(lines: bytes) -> None:
        live.add(lines)

    async with open_session() as session:
        peers = [Peer(server.url, session) for server in servers]
        reading = asyncio.ensure_future(read_live(live, peers, take))
        try:
            await until(lambda: reading.done() or enough(), "the manifest")
        finally:
            await cancel([reading])
        if not reading.cancelled():
            reading.result()


async def end(exchange: Exchange) -> None:
    exchange.close()


@pytest.mark.parametrize(
    "lie", [b'{"shard":99}\n', b"no JSON\n", b"x" * 100_000], ids=["shard", "text", "long"]
)
async def test_right_server_replaces_lying_manifest(lie: bytes, tmp_path: Path) -> None:
    live = LiveManifest("v1")
    with (
        live_server(tmp_path, [*LINES[:2], lie], end) as liar,
        live_server(tmp_path, LINES, end) as honest,
    ):
        await read(live, liar, honest)
    assert live.manifest == MADE


@pytest.mark.parametrize("said", [0, 1, 3], ids=["nothing", "the header", "shards"])
async def test_silent_server_is_abandoned_for_another(
    said: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "STALL_WHEN_OTHERS_CAN", 0.1)
    live, peers_later = LiveManifest("v1"), 0.05

    async def take(lines: bytes) -> None:
        live.add(lines)

    with live_server(tmp_path, LINES[:said]) as silent, live_server(tmp_path, LINES, end) as honest:
        async with open_session() as session:
            peers = [Peer(silent.url, session)]
            reading = asyncio.ensure_future(read_live(live, peers, take))
            await asyncio.sleep(peers_later)  # the other one has it a little later
            peers.append(Peer(honest.url, session))
            await asyncio.wait_for(reading, 10)
    assert live.manifest == MADE


async def test_manifest_with_changed_beginning_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = payloads.manifest(random_bytes(10 * payloads.PIECE, seed=2)).raw.splitlines(keepends=True)
    live = LiveManifest("v1")
    with live_server(tmp_path, LINES[:2], end) as server:
        await read(live, server, enough=lambda: len(live.raw) >= len(b"".join(LINES[:2])))
        assert bytes(live.raw) == b"".join(LINES[:2])
        server.set("/v1/manifest.jsonl", live_answer([other[0], *other[1:]]))
        monkeypatch.setattr(manifests, "ORIGIN_SILENT", 0.5)
        await read(live, server)
    assert isinstance(live.error, TransferFailed)
    assert bytes(live.raw) == b"".join(LINES[:2])


def live_answer(lines: list[bytes]) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.start(200, None, {"Content-Type": "application/x-ndjson"})
        await exchange.send(b"".join(lines))

    return behave


async def test_endless_manifest_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "ORIGIN_SILENT", 0.5)

    async def flood(exchange: Exchange) -> None:
        while True:
            await exchange.send(b'{"strange":1}\n' * 1000)

    live = LiveManifest("v1")
    with live_server(tmp_path, LINES[:2], flood) as server:
        await read(live, server)
    assert isinstance(live.error, TransferFailed)
    assert len(live.raw) < 1 << 20


async def test_version_without_progress_is_abandoned_for_another(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "o", *HTTP) as origin:
        said = [OPEN_V1, {"seq": 1, "event": "open", "version": "v2"}]  # and it has nothing of either
        with live_server(tmp_path, [], events=said, origin=origin.folders.data_dir.origin_id) as liar:
            liar.set("/v2/manifest.jsonl", bad.silent())
            async with Following([liar.url, origin.url], tmp_path / "got") as follower:
                await until(lambda: liar.requested("/v2/manifest.jsonl") > 0)
                async with streaming(origin) as (broadcast, pipe):
                    await pipe.write(DATA)
                    await until(lambda: follower.done >= 4 * SHARD, "v1 while it is being made", 10)
                    pipe.end()
                    await broadcast.result()


@pytest.mark.parametrize("lie", [bad.error(404), bad.silent()], ids=["lacking", "silent"])
async def test_upstream_listing_missing_versions_does_not_block_others(
    lie: Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More, and newer ones than a middle keeps: some complete, others open. It is not the server that decides
    which versions exist."""
    monkeypatch.setattr(relaying, "HTTP_TIMEOUT", 600.0)
    lies = [
        *({"seq": 1, "event": "open", "version": f"v{10**17 + number}"} for number in range(20, 40)),
        *(
            {"seq": 1, "event": "complete", "version": f"v{10**17 + n}", "digest": "ab" * 32, "shards": 1}
            for n in range(20)
        ),
    ]
    async with Origin.running(tmp_path / "o", *HTTP) as origin:
        await publish_small(origin, tmp_path / "first")
        with live_server(tmp_path, [], events=lies) as liar:
            liar.set("/v*/manifest.jsonl", bad.silent()).set("/v*/shard_*", lie)
            for number in range(20):
                liar.set(f"/v{10**17 + number}/manifest.jsonl", lie)
            upstreams = [origin.url, liar.url]
            async with Middle.running(upstreams, tmp_path / "m", *HTTP, check_interval=600) as middle:
                await until(lambda: middle.folders.complete_numbers == {1}, "v1", 10)
                async with streaming(origin) as (broadcast, pipe):
                    await pipe.write(DATA)
                    await until(
                        lambda: middle.folders.verified_counts("v2")[0] >= 4, "v2 while it is being made", 10
                    )
                    pipe.end()
                    await broadcast.result()
                await until(lambda: middle.folders.complete_numbers == {1, 2}, "v2", 10)


async def test_wrong_piece_of_open_version_is_never_stored(tmp_path: Path) -> None:
    one = publish(tmp_path / "origin", DATA, SHARD)
    wrong = bytearray(DATA[:SHARD])
    wrong[1000] ^= 1
    shard = one.data_dir / "v1" / "shard_001.bin"
    shard.write_bytes(wrong)
    lines = one.manifest.raw.splitlines(keepends=True)
    with live_server(one.data_dir, lines, listed=one.sha256) as server:
        async with Following([server.url], tmp_path / "got", check_interval=0.2) as follower:
            await until(lambda: server.requested("/v1/shard_001.bin") > 1)
            assert "download_v1.bin" not in follower.files
            shard.write_bytes(DATA[:SHARD])
            await follower.has("v1")
            assert follower.releases[0].path.read_bytes() == DATA


async def test_wrong_lines_of_open_version_are_never_stored(tmp_path: Path) -> None:
    """Every piece is what its line says, and the whole is not what the closing line says."""
    one = publish(tmp_path / "origin", DATA, SHARD)
    lines = one.manifest.raw.splitlines(keepends=True)
    lines[-1] = lines[-1].replace(hashlib.sha256(DATA).hexdigest().encode(), b"0" * 64)
    with live_server(one.data_dir, lines) as server:
        async with (
            Middle.running([server.url], tmp_path / "m", *HTTP) as middle,
            Following([server.url], tmp_path / "got", check_interval=0.2) as follower,
        ):
            await until(lambda: server.requested("/v1/shard_006.bin") >= 2)
            await until(lambda: not middle.folders.open_numbers)
            await until(lambda: not middle.folders.data_dir.numbers())
            await asyncio.sleep(0.3)
            assert "download_v1.bin" not in follower.files
            assert not follower.releases
            assert not middle.folders.data_dir.numbers()
            assert middle.folders.distribution() == b""


async def test_404_from_all_servers_means_aborted_but_503_does_not(tmp_path: Path) -> None:
    with live_server(tmp_path, []) as server:
        live = LiveManifest("v1")
        server.set("/v1/manifest.jsonl", bad.error(503, 1))
        await read(live, server, enough=lambda: server.requested("/v1/manifest.jsonl") >= 3)
        assert not live.ended
        server.set("/v1/manifest.jsonl", bad.error(404))
        await read(live, server)
        assert isinstance(live.error, VersionAborted)


# The library ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shardcast.OriginServer]:
    server = shardcast.OriginServer(tmp_path_factory.mktemp("library") / "data", 0)
    try:
        yield server
    finally:
        server.shutdown()


def fetched(origin: shardcast.OriginServer, version: str, tmp_path: Path) -> bytes:
    path = shardcast.ClientNode([origin.url]).download_version(version, tmp_path / version)
    assert path
    return Path(path).read_bytes()


def is_listed(origin: shardcast.OriginServer, version: str) -> bool:
    return version in shardcast.ClientNode([origin.url]).list_available_versions()


def header(origin: shardcast.OriginServer, version: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(get(origin.url, f"/{version}/manifest.jsonl")[1].split(b"\n")[0])
    return found


def gone(origin: shardcast.OriginServer, version: str) -> None:
    """It was given up, and nothing is left of it."""
    folder = Path(origin.data_dir) / version
    wait_until(lambda: not folder.exists(), what=f"{version} to be gone")
    assert not is_listed(origin, version)


def test_writer_accepts_any_bytes_like_object(origin: shardcast.OriginServer, tmp_path: Path) -> None:
    numbers = array.array("i", range(1000))
    parts = [b"a", bytearray(b"bc"), b"", numbers, memoryview(numbers)[5:], array.array("i"), DATA, b"end"]
    whole = b"".join(bytes(memoryview(part)) for part in parts)
    with origin.open_broadcast("m.bin", 100_000, {"step": 1}) as out:
        for part in parts:
            assert out.write(part) == len(bytes(memoryview(part)))
        assert out.tell() == len(whole)
        out.writelines([b"1", b"2"])
    assert fetched(origin, out.version, tmp_path) == whole + b"12"
    said = header(origin, out.version)
    assert (said["name"], said["shard_size"], said["metadata"]) == ("m.bin", 100_000, {"step": 1})


@pytest.mark.parametrize("data", [b"", bytes(200_000), bytes(100_000)], ids=["none", "two", "one"])
def test_last_shard_ends_with_the_payload(
    data: bytes, origin: shardcast.OriginServer, tmp_path: Path
) -> None:
    with origin.open_broadcast("m.bin", 100_000) as out:
        out.write(data)
    assert fetched(origin, out.version, tmp_path) == data
    closing = json.loads(get(origin.url, f"/{out.version}/manifest.jsonl")[1].splitlines()[-1])
    assert closing["shards"] == max(1, len(data) // 100_000)


def test_small_writes_reach_readers_on_flush(origin: shardcast.OriginServer) -> None:
    with origin.open_broadcast("m.bin", 1000) as out:
        for _ in range(30):
            out.write(b"0123456789" * 10)
            out.flush()
        wait_until(lambda: get(origin.url, f"/{out.version}/shard_001.bin")[0] == 200)
        assert not is_listed(origin, out.version)
    assert is_listed(origin, out.version)


def test_ended_writer_refuses_writes(origin: shardcast.OriginServer) -> None:
    with origin.open_broadcast("m.bin") as out:
        out.write(b"1")
        assert out.complete() == out.version
        with pytest.raises(ValueError, match="no more bytes"):
            out.write(b"2")
    with pytest.raises(ValueError, match="no more bytes"):
        out.write(b"2")
    assert out.complete() == out.version


def test_exception_in_block_aborts_version(origin: shardcast.OriginServer) -> None:
    with pytest.raises(KeyError), origin.open_broadcast("m.bin", SHARD) as out:
        out.write(DATA)
        raise KeyError
    gone(origin, out.version)
    with origin.open_broadcast("m.bin") as following:
        pass
    assert int(following.version[1:]) > int(out.version[1:])


@pytest.mark.parametrize("way", [BroadcastWriter.abort, BroadcastWriter.close])
def test_aborted_version_is_not_reported_complete(
    way: Callable[[BroadcastWriter], None], origin: shardcast.OriginServer
) -> None:
    out = origin.open_broadcast("m.bin")
    out.write(b"1")
    way(out)
    gone(origin, out.version)
    with pytest.raises((ShardcastError, ValueError)):
        out.complete()
    out.close()


@pytest.mark.parametrize(
    ("shard_size", "metadata"),
    [
        (0, None),
        (-5, None),
        (10**15, None),
        ("many", None),
        (None, {"a": float("nan")}),
        (None, {"a": "b" * 20_000}),
        (None, {"a": "b" * 3_000_000}),
        (None, [1, 2]),
    ],
    ids=["none", "negative", "huge", "text", "nan", "long", "longest", "list"],
)
def test_invalid_shard_size_or_metadata_raises_clear_error(
    shard_size: int | None, metadata: dict[str, object] | None, origin: shardcast.OriginServer
) -> None:
    with pytest.raises(UsageError, match=r"shard|metadata"):  # noqa: SIM117
        with origin.open_broadcast("m.bin", shard_size, metadata) as out:
            out.write(b"1")


@pytest.mark.parametrize("name", ["runs/7/step.bin", "a\\b", "", "..", "\n\udc80", "x" * 1000])
def test_any_name_is_accepted(name: str, origin: shardcast.OriginServer, tmp_path: Path) -> None:
    with origin.open_broadcast(name) as out:
        out.write(b"1")
    assert fetched(origin, out.version, tmp_path) == b"1"
    assert "/" not in str(header(origin, out.version)["name"])


async def test_writer_works_in_a_coroutine(origin: shardcast.OriginServer, tmp_path: Path) -> None:
    async with origin.open_broadcast("m.bin", SHARD) as out:
        for start in range(0, len(DATA), 400_000):
            await out.write_async(DATA[start : start + 400_000])
    assert await asyncio.to_thread(fetched, origin, out.version, tmp_path) == DATA
    with pytest.raises(KeyError):
        async with origin.open_broadcast("m.bin", SHARD) as out:
            await out.write_async(DATA)
            raise KeyError
    await asyncio.to_thread(gone, origin, out.version)


def test_second_writer_waits_for_the_first(origin: shardcast.OriginServer, tmp_path: Path) -> None:
    first, second = origin.open_broadcast("1.bin"), origin.open_broadcast("2.bin")
    writing = threading.Thread(target=lambda: (second.write(2 * DATA), second.complete()))
    writing.start()
    first.write(DATA)
    writing.join(0.3)
    assert writing.is_alive()
    assert not (Path(origin.data_dir) / second.version).exists()
    first.complete()
    writing.join(30)
    assert fetched(origin, first.version, tmp_path) == DATA
    assert fetched(origin, second.version, tmp_path) == 2 * DATA
    first.close()
    second.close()


def test_many_concurrent_writers_all_publish(tmp_path: Path) -> None:
    """More than an origin has threads, and the first one goes on last."""
    with processes.origin(tmp_path / "data") as origin:
        writers = [BroadcastWriter(tmp_path / "data", f"{number}.bin") for number in range(9)]

        def write(out: BroadcastWriter) -> None:
            with contextlib.suppress(ShardcastError), out:
                out.write(bytes(3_000_000))

        threads = [threading.Thread(target=write, args=(out,), daemon=True) for out in reversed(writers)]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        try:
            wait_until(lambda: len(listed(origin.url)) == len(writers), what="all of them")
        finally:
            origin.kill()
            for thread in threads:
                thread.join(30)


def test_open_broadcast_without_origin_raises(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed):
        BroadcastWriter(tmp_path, "m.bin")
    with pytest.raises(shardcast.NotInitialized):
        shardcast.open_broadcast("m.bin")


# Processes --------------------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from typing import Any
from shardcast.control.writer import BroadcastWriter
out = BroadcastWriter(Path(sys.argv[1]), "m.bin", 300_000)
out.write(bytes(2_000_000))
print(out.version, flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def process(arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is fed through its stdin; killed at the end."""
    pipe = subprocess.PIPE
    one = processes.Popen(arguments, env=processes.environment(), stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        yield one
    finally:
        one.kill()
        one.communicate()


def piped(data_dir: Path, *words: str) -> list[str]:
    """``shardcast broadcast -``."""
    return processes.command(
        "broadcast", "-", "--data-dir", str(data_dir), "--shard-size", str(SHARD), *words
    )


def run_piped(data: bytes | None, data_dir: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        piped(data_dir, *words),
        env=processes.environment(),
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )


def pour(one: subprocess.Popen[bytes], data: bytes = DATA) -> None:
    assert one.stdin
    one.stdin.write(data)
    one.stdin.flush()


def has_shards(data_dir: Path, version: str, count: int = 2) -> Callable[[], bool]:
    return lambda: len(list((data_dir / version).glob("shard_*.bin"))) >= count


def shards_here(node: processes.Node) -> list[int]:
    """How many whole shards a node says it has, of each version."""
    return [int(one["shards_here"]) for one in json.loads(get(node.url, "/status")[1])["versions"]]


@pytest.mark.parametrize("running", [True, False], ids=["origin", "alone"])
def test_pipe_is_broadcast(running: bool, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with contextlib.ExitStack() as stack:
        if running:
            stack.enter_context(processes.origin(data_dir))
        first = run_piped(DATA, data_dir, "--name", "model.bin", "--json")
        assert (first.returncode, json.loads(first.stdout)) == (0, {"version": "v1", "path": None})
        assert "Traceback" not in first.stderr.decode()
        assert run_piped(b"", data_dir).stdout == b"v2\n"
    assert payloads.read_shards(data_dir / "v1") == DATA
    assert payloads.read_shards(data_dir / "v2") == b""
    names = [json.loads((data_dir / v / "manifest.jsonl").read_text().splitlines()[0]) for v in ("v1", "v2")]
    assert [one["name"] for one in names] == ["model.bin", "stdin"]


def test_link_of_a_pipe_is_refused(tmp_path: Path) -> None:
    done = run_piped(b"1", tmp_path / "data", "--link")
    assert done.returncode == USAGE
    assert b"--link" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("running", [True, False], ids=["origin", "alone"])
def test_closed_stdin_is_a_clear_error(running: bool, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        if running:
            stack.enter_context(processes.origin(tmp_path / "data"))
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *piped(tmp_path / "data")]
        done = subprocess.run(
            command, env=processes.environment(), capture_output=True, timeout=60, check=False
        )
        assert done.returncode not in (0, INTERRUPTED)
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
@pytest.mark.parametrize("running", [True, False], ids=["origin", "alone"])
def test_interrupted_pipe_aborts_version(running: bool, number: signal.Signals, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with contextlib.ExitStack() as stack:
        if running:
            stack.enter_context(processes.origin(data_dir))
        with process(piped(data_dir)) as one:
            pour(one)
            wait_until(has_shards(data_dir, "v1"))
            one.send_signal(number)
            assert one.wait(30) == (INTERRUPTED if number is signal.SIGINT else -signal.SIGKILL)
            assert one.stdout
            assert one.stdout.read() == b""
        if running:
            wait_until(lambda: not (data_dir / "v1").exists(), what="v1 to go")
        assert run_piped(DATA, data_dir).stdout == b"v2\n"
    assert not (data_dir / "v1").exists()
    assert (data_dir / "distribution.txt").read_text().startswith("v2: ")
    assert payloads.read_shards(data_dir / "v2") == DATA


def test_killed_writer_aborts_version(origin: shardcast.OriginServer, tmp_path: Path) -> None:
    with process([sys.executable, "-c", WRITER, origin.data_dir]) as one:
        assert one.stdout
        version = one.stdout.readline().decode().strip()
        wait_until((Path(origin.data_dir) / version).exists, what="the version to open")
        one.kill()
    gone(origin, version)


def test_killed_origin_aborts_version_on_restart(tmp_path: Path) -> None:
    data_dir, got = tmp_path / "data", tmp_path / "got"
    with contextlib.ExitStack() as stack:
        port = str(stack.enter_context(processes.reserved_port()))
        first = stack.enter_context(processes.origin(data_dir, "--port", port))
        middle = stack.enter_context(processes.middle(first.url, tmp_path / "m"))
        follow = ("client", "--follow", "--servers", middle.url, "--output-dir", str(got))
        client = stack.enter_context(processes.started(processes.command(*follow), timeout=0.1))
        with process(piped(data_dir)) as one:
            pour(one, 4 * DATA)
            wait_until(has_shards(tmp_path / "m", "v1"), what="shards at the middle")
            wait_until(lambda: list(got.glob(".*.part")), what="a .part")
            first.kill()
            assert one.stdin
            with contextlib.suppress(OSError):
                one.stdin.write(bytes(3_000_000))
            assert one.wait(30) == OTHER
        assert listed(middle.url) == {}
        second = stack.enter_context(processes.origin(data_dir, "--port", port))
        assert not (data_dir / "v1").exists()
        wait_until(lambda: not (tmp_path / "m" / "v1").exists(), what=f"v1 to go:\n{middle.log}")
        wait_until(
            lambda: not list(got.glob(".*.part*")), what=f"the .part to go:\n{client.log}\n{middle.log}"
        )
        assert run_piped(DATA, data_dir).stdout == b"v2\n"
        wait_until(lambda: (got / "download_v2.bin").exists(), what=f"v2:\n{client.log}")
        assert (got / "download_v2.bin").read_bytes() == DATA
        # The client may have verified the whole payload before the middle has.
        wait_until(lambda: listed(middle.url).keys() == {"v2"}, what=f"v2 at the middle:\n{middle.log}")
        assert listed(second.url).keys() == {"v2"}


async def test_killed_middle_resumes_open_version(tmp_path: Path) -> None:
    async with (
        Origin.running(tmp_path / "origin", *HTTP) as origin,
        streaming(origin) as (broadcast, pipe),
        contextlib.AsyncExitStack() as stack,
    ):
        listen = "--host", "127.0.0.1", "--port", str(stack.enter_context(processes.reserved_port()))
        words = ("middle", "--upstream", origin.url, "--data-dir", str(tmp_path / "m"), *listen)
        middle = await asyncio.to_thread(stack.enter_context, processes.node(*words))
        async with Following([middle.url], tmp_path / "got") as follower:
            await pipe.write(DATA[: 4 * SHARD])
            await until(lambda: follower.done >= 3 * SHARD, "three shards")
            # All that there are by its own account: a shard is in its place a moment before it counts.
            await until(lambda: shards_here(middle) == [4], "four shards at the middle")
            await asyncio.to_thread(middle.kill)
            asked: list[str] = []
            reading = origin.folders.shard

            def shard(version: str, number: int) -> object:
                asked.append(f"{version}/{number}")
                return reading(version, number)

            origin.folders.shard = shard  # type: ignore[method-assign, assignment]
            again = await asyncio.to_thread(stack.enter_context, processes.node(*words))
            assert shards_here(again) >= [4], again.log
            await pipe.write(DATA[4 * SHARD :])
            pipe.end()
            await broadcast.result()
            await follower.has("v1")
            assert follower.releases[0].path.read_bytes() == DATA
            assert not {"v1/1", "v1/2", "v1/3", "v1/4"} & set(asked)


async def test_non_authority_cannot_complete_open_version_otherwise(
    tmp_path: Path,
) -> None:
    honest = publish(tmp_path / "origin", DATA, SHARD)
    forged = publish(tmp_path / "forged", DATA[:SHARD] + random_bytes(4 * SHARD, 99), SHARD)
    (first, *right), (_, *wrong) = (one.manifest.raw.splitlines(keepends=True) for one in (honest, forged))
    # The deciding server pauses behind the first shard; the other one goes on with its own.
    with (
        live_server(honest.data_dir, [first, right[0]]) as server,
        live_server(forged.data_dir, [first, *wrong], end) as liar,
    ):
        async with (
            Following([server.url, liar.url], tmp_path / "got") as follower,
            Middle.running([server.url, liar.url], tmp_path / "m", *HTTP, check_interval=600) as middle,
        ):
            await until(lambda: liar.requested("/v1/manifest.jsonl") > 1, "both to ask the liar")
            await asyncio.sleep(3)
            assert "download_v1.bin" not in follower.files
            assert not middle.folders.listings
