"""Shards that somebody waits for: they come first, and each comes once however many wait."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from shardcast.constants import LOOK_AHEAD
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.store.data_dir import DataDir
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.versions import VersionFolders
from shardcast.transfer import shard_opener
from tests.support import payloads
from tests.support.bad_servers import BadServer, Exchange
from tests.support.payloads import manifest, random_bytes
from tests.support.published import Published, publish

HTTP = "127.0.0.1", 0
SHARD = 20_000
SHARDS = 60
DATA = random_bytes(SHARDS * SHARD)
LANDING = {"Shardcast-Accept": "landing"}
EARLY = shard_opener._MAX_WANTED


async def until(condition: Callable[[], object], what: str = "the condition", seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.005)


class Upstream:
    """A static server whose shards are let out one by one.

    Attributes:
        asked: the shards in the order in which they were asked for.
        bodies: bytes of shards that went out.
    """

    def __init__(self, one: Published) -> None:
        self.asked: list[int] = []
        self.times: Counter[int] = Counter()
        self.bodies = 0
        self.free = False
        self._let: set[int] = set()
        self.server = BadServer(one.data_dir)
        self.server.set("/v1/shard_*", self._answer)

    async def _answer(self, exchange: Exchange) -> None:
        number = int(exchange.path[-7:-4])
        part = exchange.right_answer()
        if exchange.method == "GET":
            self.asked.append(number)
            self.times[number] += 1
        while not (self.free or number in self._let):
            await asyncio.sleep(0.005)
        self.bodies += len(part.body)
        await exchange.answer(part)

    def let(self, *numbers: int) -> None:
        """Answer for these shards."""
        self._let.update(numbers)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("origin") / "data", DATA, SHARD)


@pytest.fixture
def upstream(published: Published) -> Iterator[Upstream]:
    running = Upstream(published)
    with running.server:
        yield running
        running.free = True


@contextlib.asynccontextmanager
async def node(upstream: Upstream, root: Path) -> AsyncIterator[tuple[Middle, aiohttp.ClientSession]]:
    timeout = aiohttp.ClientTimeout(30)
    async with (
        Middle.running([upstream.server.url], root, *HTTP, check_interval=600) as middle,
        aiohttp.ClientSession(middle.url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as web,
    ):
        yield middle, web


async def get(web: aiohttp.ClientSession, number: int) -> bytes:
    """A shard as a new node asks for it, again and again while it is not there yet."""
    while True:
        async with web.get(f"/v1/shard_{number:03}.bin", headers=LANDING) as answer:
            if answer.status == 200:
                return await answer.read()
            assert answer.status == 503
            assert answer.headers["Retry-After"]
        await asyncio.sleep(0.05)


def open_files() -> list[Path]:
    """What this process has open; nothing where the system doesn't tell."""
    folder = Path("/proc/self/fd")
    return list(folder.iterdir()) if folder.is_dir() else []


def shard(number: int) -> bytes:
    return DATA[(number - 1) * SHARD : number * SHARD]


async def test_requested_late_shard_is_fetched_before_earlier_ones(
    upstream: Upstream, tmp_path: Path
) -> None:
    async with node(upstream, tmp_path / "m") as (middle, web):
        await until(lambda: middle.folders.opened(1), "the version")
        opened = middle.folders.opened(1)
        assert opened
        await until(
            lambda: len(opened.landings) >= len(upstream.asked) + 2 > 3, "shards that wait for their turn"
        )
        await asyncio.sleep(0.5)  # every connection is busy
        asked = len(upstream.asked)
        assert SHARDS not in upstream.asked
        waiting = asyncio.ensure_future(get(web, SHARDS))
        await until(lambda: middle.folders.landing("v1", SHARDS), "its landing")
        upstream.let(upstream.asked[0], SHARDS)  # one connection comes free
        assert await waiting == shard(SHARDS)
        assert upstream.asked[asked] == SHARDS
        assert middle.folders.verified_counts("v1")[0] <= 2
        upstream.free = True
        await until(lambda: middle.folders.complete_numbers, "the rest")
        assert payloads.read_shards(tmp_path / "m" / "v1") == DATA
        assert set(upstream.times.values()) == {1}


async def test_each_shard_is_fetched_once_for_many_readers(upstream: Upstream, tmp_path: Path) -> None:
    async with node(upstream, tmp_path / "m") as (middle, web):
        await until(lambda: len(upstream.asked) >= 2, "the first shards")
        everybody = [asyncio.ensure_future(get(web, 1 + number % SHARDS)) for number in range(3 * SHARDS)]
        await asyncio.sleep(0.2)
        upstream.free = True
        for number, body in enumerate(await asyncio.wait_for(asyncio.gather(*everybody), 60)):
            assert body == shard(1 + number % SHARDS)
        await until(lambda: middle.folders.complete_numbers, "the version")
        assert upstream.bodies == len(DATA)
        assert upstream.times == Counter(range(1, SHARDS + 1))


async def test_requests_for_all_shards_keep_order_and_look_ahead(upstream: Upstream, tmp_path: Path) -> None:
    async with node(upstream, tmp_path / "m") as (middle, web):
        await until(lambda: len(upstream.asked) >= 2, "the first shards")
        everybody = [asyncio.ensure_future(get(web, number)) for number in range(SHARDS, 0, -1)]
        opened = middle.folders.opened(1)
        assert opened
        begun: list[int] = []
        most = 0
        files = len(open_files())

        def look() -> bool:
            nonlocal most
            most = max(most, len(opened.landings))
            here = opened.verified_shards | set(opened.landings)
            hashed = next(
                (number for number in range(1, SHARDS + 1) if number not in opened.verified_shards),
                SHARDS + 1,
            )
            begun.append(sum(number > hashed + LOOK_AHEAD for number in here))
            return not middle.folders.open_numbers

        for _ in range(50):
            look()
            await asyncio.sleep(0.005)
        assert len(open_files()) - files <= 2 * (SHARDS + LOOK_AHEAD + EARLY)
        upstream.free = True
        await until(look, "the version")
        assert most <= LOOK_AHEAD + EARLY + 1
        assert max(begun) <= EARLY + 1
        assert await asyncio.gather(*everybody) == [shard(number) for number in range(SHARDS, 0, -1)]


async def test_client_behind_slow_middle_gets_whole_version(upstream: Upstream, tmp_path: Path) -> None:
    """Its own look-ahead asks for shards that have not begun."""
    async with node(upstream, tmp_path / "m") as (middle, web):
        await until(lambda: len(upstream.asked) >= 2, "the first shards")
        waiting = asyncio.ensure_future(get(web, SHARDS // 2))
        upstream.free = True
        await until(lambda: middle.folders.complete_numbers, "the version")
        assert await waiting == shard(SHARDS // 2)
        async with Client([middle.url], tmp_path / "out") as client:
            assert (await client.download("v1")).path.read_bytes() == DATA
        assert set(upstream.times.values()) == {1}


async def test_reader_without_landings_changes_no_order(upstream: Upstream, tmp_path: Path) -> None:
    async with node(upstream, tmp_path / "m") as (middle, web):
        await until(lambda: len(upstream.asked) >= 2, "the first shards")
        for path in (
            f"/v1/shard_{SHARDS:03}.bin",
            "/v1/shard_061.bin",
            "/v1/shard_000.bin",
            "/v2/shard_001.bin",
        ):
            async with web.get(path) as answer:
                assert answer.status == 404
        assert not middle.folders.landing("v1", SHARDS)
        assert SHARDS not in upstream.asked


# What an open version knows of them --------------------------------------------------------------------


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[OpenVersion]:
    held = DataDir(tmp_path / "data", "middle")
    folders = VersionFolders(held)
    folders.load(True)
    made = manifest(random_bytes(10 * payloads.SHARD))
    yield await folders.begin_version(1, LiveManifest.of(made))
    held.close()


async def wait_for(opened: OpenVersion, *numbers: int) -> None:
    """Wait for shards, in vain."""
    waits = [asyncio.ensure_future(opened.wait_for_shard(number)) for number in numbers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for one in waits:
        one.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


async def test_requested_shards_are_yielded_once_in_order(
    opened: OpenVersion,
) -> None:
    await wait_for(opened, 7, 3, 7, 9, 3)
    assert [(await opened.next_wanted()).number for _ in range(3)] == [7, 3, 9]
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(opened.next_wanted(), 0.05)


async def test_shard_outside_manifest_is_not_requested(opened: OpenVersion) -> None:
    await wait_for(opened, 0, -1, 11, 10**6, 10)
    assert (await opened.next_wanted()).number == 10
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(opened.next_wanted(), 0.05)


async def test_arriving_shard_is_not_requested_again(opened: OpenVersion) -> None:
    landing = await opened.landing(opened.live.shards[3])
    try:
        await asyncio.wait_for(opened.wait_for_shard(4), 5)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(opened.next_wanted(), 0.05)
    finally:
        landing.close()
