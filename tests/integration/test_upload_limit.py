"""Upload limits: bytes in a time that the tests move, from real listeners to real readers."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.request import urlopen

import aiohttp
import pytest

import shardcast
from shardcast.addresses import parse_networks
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.errors import UsageError
from shardcast.fair_limit import FairLimit
from shardcast.nodes.origin import Origin
from shardcast.policy.byte_limit import MIN_RATE, Rates
from shardcast.server import upload_limit
from shardcast.server.bounds import Bounds
from tests.support import processes
from tests.support.archives import put_blobs, running_archive
from tests.support.memory_store import BlobsInMemory
from tests.support.published import Published, publish, random_bytes
from tests.support.stores import fill
from tests.support.virtual_time import VirtualTime

SIZE = 4_000_000
RATE = 1_000_000
SHARD = "/v1/shard_001.bin"


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish(tmp_path / "data", random_bytes(SIZE), SIZE)


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


async def fetch(url: str, source: str = "127.0.0.1", path: str = SHARD) -> int:
    """Return the bytes of an answer to a reader at an address of this machine."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with aiohttp.ClientSession(url, connector=connector) as session, session.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return len(await answer.read())


def serving(
    published: Published, limit: FairLimit, trusted: str = "", **bounds: float
) -> AbstractAsyncContextManager[Origin]:
    return Origin.running(
        published.data_dir,
        "127.0.0.1",
        0,
        bounds=Bounds(uploads=limit, trusted=parse_networks(trusted), **bounds),  # type: ignore[arg-type]
    )


def stopped_limit() -> tuple[FairLimit, asyncio.Event]:
    """Return a limit that gives nothing beyond its credit before an event is set."""
    resume = asyncio.Event()

    async def wait(seconds: float) -> None:
        await resume.wait()

    return FairLimit(Rates(MIN_RATE), lambda: 0.0, wait), resume


async def ends(url: str, time: VirtualTime, sources: list[str]) -> list[float]:
    """Return when each of several readers had a whole shard."""

    async def one(source: str) -> float:
        assert await fetch(url, source) == SIZE
        return time.now

    return await asyncio.gather(*map(one, sources))


async def test_one_reader_gets_the_limit(published: Published, time: VirtualTime) -> None:
    async with time.limit(Rates(RATE)) as limit, serving(published, limit) as origin:
        assert await fetch(origin.url) == SIZE
        assert time.now == pytest.approx(SIZE / RATE, rel=0.03)


async def test_eight_readers_get_equal_shares(published: Published, time: VirtualTime) -> None:
    async with time.limit(Rates(RATE)) as limit, serving(published, limit) as origin:
        ended = await ends(origin.url, time, ["127.0.0.1"] * 8)
    assert max(ended) == pytest.approx(8 * SIZE / RATE, rel=0.03)
    assert min(ended) >= 0.95 * max(ended)


async def test_address_with_more_connections_gets_no_more(published: Published, time: VirtualTime) -> None:
    async with time.limit(Rates(RATE)) as limit, serving(published, limit) as origin:
        single, *several = await ends(origin.url, time, ["127.0.0.2", *["127.0.0.1"] * 4])
    assert single == pytest.approx(2 * SIZE / RATE, rel=0.05)
    assert max(several) == pytest.approx(5 * SIZE / RATE, rel=0.03)


async def test_limit_per_address_holds_for_each(published: Published, time: VirtualTime) -> None:
    async with time.limit(Rates(None, RATE)) as limit, serving(published, limit) as origin:
        ended = await ends(origin.url, time, ["127.0.0.1", "127.0.0.2", "127.0.0.2"])
    assert ended == pytest.approx([SIZE / RATE, 2 * SIZE / RATE, 2 * SIZE / RATE], rel=0.05)


async def test_limit_per_address_spares_trusted_proxies(published: Published, time: VirtualTime) -> None:
    rates = Rates(10 * RATE, RATE)
    async with time.limit(rates) as limit, serving(published, limit, "127.0.0.2") as origin:
        proxy = await fetch(origin.url, "127.0.0.2")
        assert (proxy, time.now) == (SIZE, pytest.approx(SIZE / (10 * RATE), abs=0.1))


async def test_small_answers_do_not_wait_for_readers(published: Published) -> None:
    limit, resume = stopped_limit()
    async with serving(published, limit) as origin, aiohttp.ClientSession(origin.url) as session:
        async with session.get(SHARD) as answer:
            await answer.content.readany()
            for path in ("/healthcheck", "/status", "/distribution.txt", "/v1/manifest.jsonl"):
                assert await fetch(origin.url, path=path)
            async with session.get("/feed") as feed:
                assert b"node" in await asyncio.wait_for(feed.content.readline(), 10)
        assert limit.readers == 1
        resume.set()


async def test_small_answers_count(published: Published, time: VirtualTime) -> None:
    async with time.limit(Rates(MIN_RATE)) as limit, serving(published, limit) as origin:
        size = 0
        while size < MIN_RATE:
            size += await fetch(origin.url, path="/status")
        with limit.open("reader") as share:
            await share.take(1)
            assert time.now >= size / MIN_RATE - 0.1


async def test_reader_that_waits_for_its_turn_is_not_stalled(published: Published) -> None:
    waits = [0.2, 0.2]

    async def sleep(seconds: float) -> None:
        if waits:
            await asyncio.sleep(waits.pop())

    limit = FairLimit(Rates(RATE), sleep=sleep)
    async with serving(published, limit, reader_seconds=0.1) as origin:
        assert await fetch(origin.url) == SIZE


async def test_reader_beyond_those_served_in_time_is_asked_to_come_again(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_limit, "_TURN_SECONDS", 0.01)

    limit, resume = stopped_limit()
    async with serving(published, limit) as origin, aiohttp.ClientSession(origin.url) as session:
        async with session.get(SHARD) as first, session.get(SHARD) as second, session.get(SHARD) as third:
            assert [first.status, second.status, third.status] == [200, 200, 503]
            assert third.headers["Retry-After"]
        assert (await session.head(SHARD)).status == 200
        resume.set()


async def test_reader_that_left_makes_room(published: Published) -> None:
    limit, resume = stopped_limit()
    async with serving(published, limit) as origin, aiohttp.ClientSession(origin.url) as session:
        async with session.get(SHARD), session.get(SHARD):
            assert limit.readers == 2
        resume.set()
        async with session.get(SHARD) as answer:
            assert answer.status == 200


async def test_archive_pull_goes_in_turn(tmp_path: Path, time: VirtualTime) -> None:
    store = BlobsInMemory()
    blobs = [random_bytes(100_000, seed) for seed in range(20)] + [random_bytes(1000, 99)]
    keys = await put_blobs(store, *blobs)
    async with (
        time.limit(Rates(RATE)) as limit,
        running_archive(tmp_path, store, bounds=Bounds(uploads=limit)) as archive,
    ):
        for key in keys:
            await fetch(archive.url, path=f"/{key}")
        assert time.now == pytest.approx(sum(map(len, blobs)) / RATE, rel=0.05)


async def test_small_blobs_of_a_hash_server_go_in_turn(tmp_path: Path, time: VirtualTime) -> None:
    blobs = [random_bytes(5000, seed) for seed in range(100)]
    keys = fill(tmp_path, *blobs)
    async with (
        time.limit(Rates(RATE)) as limit,
        StoreServer.running(StoreSettings(tmp_path), bounds=Bounds(uploads=limit)) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        for key in keys:
            async with session.get(f"/{key}") as answer:
                assert len(await answer.read()) == 5000
    assert time.now == pytest.approx(500_000 / RATE, abs=0.02)
    assert limit.readers == 0


async def test_status_shows_limits_that_are_set(published: Published) -> None:
    async with (
        serving(published, FairLimit(Rates(RATE, MIN_RATE))) as origin,
        aiohttp.ClientSession(origin.url) as session,
        session.get("/status") as answer,
    ):
        status = await answer.json()
    assert status["limits"] == {"upload": RATE, "upload_per_address": MIN_RATE}


def test_limit_too_low_is_refused() -> None:
    with pytest.raises(UsageError, match="too low"):
        FairLimit.of(1000)
    assert FairLimit.of(None) is None


def test_library_sets_limits_of_its_nodes(tmp_path: Path) -> None:
    origin = shardcast.OriginServer(tmp_path / "o", 0, upload_limit=RATE)
    try:
        middle = shardcast.MiddleNode(
            [origin.url], tmp_path / "m", 0, upload_limit=2 * RATE, download_limit=3 * RATE
        )
        try:
            found = [json.load(urlopen(f"{node.url}/status"))["limits"] for node in (origin, middle)]
        finally:
            middle.shutdown()
    finally:
        origin.shutdown(0)
    assert [found[0]["upload"], found[1]["upload"], found[1]["download"]] == [RATE, 2 * RATE, 3 * RATE]


def test_library_refuses_limit_too_low(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too low"):
        shardcast.OriginServer(tmp_path / "o", 0, upload_limit=1000)
    with pytest.raises(UsageError, match="too low"):
        shardcast.ClientNode(["127.0.0.1"], tmp_path, download_limit=1000)


def test_command_refuses_limit_too_low(tmp_path: Path) -> None:
    done = processes.run("origin", "--data-dir", str(tmp_path), env={"SHARDCAST_UPLOAD_LIMIT": "20kB"})
    assert done.returncode == 2
    assert "a limit of 20000 bytes a second is too low" in done.stderr
