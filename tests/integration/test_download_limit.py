"""Download and push limits: bytes in a time that the tests move, from real servers."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import pytest
from aiohttp import web

from shardcast.blobs.client.remote import RemoteStore
from shardcast.fair_limit import FairLimit
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.nodes.payload_sources import FileSource
from shardcast.nodes.remote_broadcast import broadcast_to
from shardcast.peer.session import open_session
from shardcast.policy.byte_limit import MIN_RATE, Rates
from shardcast.protocol.uploads import UploadRequest
from shardcast.transfer.limits import Limits
from tests.support.archives import put_blobs, running_archive
from tests.support.memory_store import BlobsInMemory
from tests.support.published import Published, publish, random_bytes
from tests.support.virtual_time import VirtualTime

SIZE = 2_000_000
RATE = 400_000
"""Bytes a second at which one answer with a shard comes after the other."""


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish(tmp_path / "data", random_bytes(SIZE), SIZE // 4)


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


async def test_download_takes_the_time_of_its_limit(
    published: Published, time: VirtualTime, tmp_path: Path
) -> None:
    async with (
        Origin.running(published.data_dir, "127.0.0.1", 0) as origin,
        time.limit(Rates(RATE)) as limit,
        Client([origin.url], tmp_path, downloads=limit) as client,
    ):
        release = await client.download()
    assert release.path.read_bytes() == published.payload
    assert time.now == pytest.approx(SIZE / RATE, rel=0.03)
    assert limit.readers == 0


async def test_shard_is_not_split_where_the_limit_sets_the_speed(tmp_path: Path) -> None:
    """Idle workers would take ranges over from answers that wait here, and wait here as well."""
    published = publish(tmp_path / "one", random_bytes(2_400_000), 2_400_000)
    shutil.copytree(published.data_dir, tmp_path / "other")
    limit = FairLimit(Rates(1_500_000))
    async with (
        Origin.running(published.data_dir, "127.0.0.1", 0) as one,
        Origin.running(tmp_path / "other", "127.0.0.1", 0) as other,
        Client([one.url, other.url], tmp_path, downloads=limit) as client,
    ):
        release = await client.download()
    assert sorted(release.received.values()) in ([2_400_000], [0, 2_400_000])


async def test_limit_per_server_holds_for_it(published: Published, time: VirtualTime, tmp_path: Path) -> None:
    async with (
        Origin.running(published.data_dir, "127.0.0.1", 0) as origin,
        time.limit(Rates(None, RATE)) as limit,
        Client([origin.url], tmp_path, downloads=limit) as client,
    ):
        await client.download()
    assert time.now == pytest.approx(SIZE / RATE, rel=0.03)


async def test_wait_for_the_limit_is_not_blamed_on_the_server(published: Published, tmp_path: Path) -> None:
    waits = [0.5]

    def wait(event: threading.Event, seconds: float) -> bool:
        return event.wait(waits.pop() if waits else 0)

    limit = FairLimit(Rates(RATE), wait=wait)
    limits = Limits(timeout=0.2, stall=0.1, attempts=1)
    async with (
        Origin.running(published.data_dir, "127.0.0.1", 0) as origin,
        Client([origin.url], tmp_path, limits, downloads=limit) as client,
    ):
        release = await client.download()
    assert release.received == {origin.url: SIZE}
    assert not waits


async def test_cancelled_download_does_not_wait_for_the_limit(published: Published, tmp_path: Path) -> None:
    waiting, ended = threading.Event(), threading.Event()

    def wait(event: threading.Event, seconds: float) -> bool:
        waiting.set()
        cancelled = event.wait(60)
        ended.set()
        return cancelled

    limit = FairLimit(Rates(MIN_RATE), lambda: 0.0, wait=wait)
    async with (
        Origin.running(published.data_dir, "127.0.0.1", 0) as origin,
        Client([origin.url], tmp_path, downloads=limit) as client,
    ):
        download = asyncio.ensure_future(client.download())
        assert await asyncio.to_thread(waiting.wait, 20)
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
        assert await asyncio.to_thread(ended.wait, 5)
        assert limit.readers == 0


async def test_answer_through_aiohttp_takes_the_time_of_the_limit(
    published: Published, time: VirtualTime, tmp_path: Path
) -> None:
    """A chunked answer is none that a thread reads."""

    async def shard(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write((published.data_dir / request.path[1:]).read_bytes())
        return response

    async def listing(request: web.Request) -> web.StreamResponse:
        return web.Response(body=(published.data_dir / "distribution.txt").read_bytes())

    async def manifest(request: web.Request) -> web.StreamResponse:
        return web.Response(body=(published.data_dir / "v1/manifest.jsonl").read_bytes())

    app = web.Application()
    app.router.add_get("/distribution.txt", listing)
    app.router.add_get("/v1/manifest.jsonl", manifest)
    app.router.add_get("/v1/{shard}", shard)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with (
            time.limit(Rates(RATE)) as limit,
            Client([f"http://{host}:{port}"], tmp_path, downloads=limit) as client,
        ):
            release = await client.download()
    finally:
        await runner.cleanup()
    assert release.path.read_bytes() == published.payload
    assert time.now == pytest.approx(SIZE / RATE, rel=0.05)


async def test_blobs_are_pulled_in_turn(tmp_path: Path, time: VirtualTime) -> None:
    store, target = BlobsInMemory(), BlobsInMemory()
    blobs = [random_bytes(100_000, seed) for seed in range(10)]
    keys = await put_blobs(store, *blobs)
    async with (
        running_archive(tmp_path, store) as archive,
        time.limit(Rates(RATE)) as limit,
        open_session(downloads=limit) as session,
    ):
        remote = RemoteStore(archive.url, session)
        for key in keys:
            async with remote.open(key) as reader, target.put(key) as writer:
                while data := await reader.read(1 << 20):
                    await writer.write(data)
                await writer.commit()
    assert time.now == pytest.approx(1_000_000 / RATE, rel=0.06)


async def test_blobs_are_pushed_in_turn(tmp_path: Path, time: VirtualTime) -> None:
    blobs = [random_bytes(100_000, seed) for seed in range(10)]
    store = BlobsInMemory()
    async with (
        running_archive(tmp_path, store) as archive,
        time.limit(Rates(RATE)) as limit,
        open_session(uploads=limit) as session,
    ):
        assert archive.push_url
        await put_blobs(RemoteStore(archive.push_url, session), *blobs)
    assert time.now == pytest.approx(1_000_000 / RATE, rel=0.06)
    assert limit.readers == 0


async def test_payload_is_sent_to_an_origin_in_turn(tmp_path: Path, time: VirtualTime) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(random_bytes(SIZE))
    async with (
        Origin.running(tmp_path / "origin", "127.0.0.1", 0, takes_uploads=True) as origin,
        time.limit(Rates(RATE)) as limit,
    ):
        with FileSource(payload) as source:
            request = UploadRequest(source.name, source.size)
            assert await broadcast_to(origin.url, source, request, uploads=limit) == "v1"
    assert time.now == pytest.approx(SIZE / RATE, rel=0.06)


async def test_middle_shows_its_limits(published: Published, tmp_path: Path) -> None:
    async with (
        Origin.running(published.data_dir, "127.0.0.1", 0) as origin,
        Middle.running(
            [origin.url], tmp_path / "middle", "127.0.0.1", 0, downloads=FairLimit(Rates(RATE, MIN_RATE))
        ) as middle,
    ):
        limits = middle.status()["limits"]
    assert (limits["download"], limits["download_per_address"]) == (RATE, MIN_RATE)
    assert (limits["upload"], limits["upload_per_address"]) == (None, None)
