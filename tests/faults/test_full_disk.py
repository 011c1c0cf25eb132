"""A middle whose disk is full: older versions go for a newer one, and for nothing less.

The disk is a tmpfs of 15 MB, the origin and the middle are real ones in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shardcast.errors import LocalDiskError
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from tests.integration.test_room import streaming, until, write
from tests.support.bad_answers import throttled
from tests.support.bad_servers import BadServer
from tests.support.payloads import random_bytes
from tests.support.published import publish as publish_here
from tests.support.small_disks import SmallDisk, small_disk

HTTP = "127.0.0.1", 0
U = 1 << 18
"""Bytes of a piece; the disk has sixty of them."""
SHARD = 4 * U
pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "15m") as mounted:
        yield mounted


@contextlib.asynccontextmanager
async def nodes(tmp_path: Path, disk: SmallDisk, **words: int) -> AsyncIterator[tuple[Origin, Middle]]:
    """An origin, and a middle on the small disk."""
    async with (
        Origin.running(tmp_path / "origin", *HTTP) as origin,
        Middle.running([origin.url], disk.path / "m", *HTTP, check_interval=0.3, **words) as middle,
    ):
        yield origin, middle


async def broadcast(origin: Origin, data: bytes, shard_size: int = SHARD) -> str:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        made = await origin.publish(Path(file.name), shard_size)
        await made.result()
        return made.version


async def here(middle: Middle, *numbers: int) -> None:
    await until(lambda: middle.folders.complete_numbers == set(numbers), f"{numbers} at the middle")


async def lacks(middle: Middle, version: str, why: str = "") -> str:
    """Wait until the middle says that it lacks a version, with these words; returns why."""

    def told() -> str | None:
        reasons = {one["version"]: str(one["why"]) for one in middle.status()["lacking"]}
        return reasons[version] if why in reasons.get(version, "") and version in reasons else None

    await until(lambda: told() is not None, "what it lacks")
    return told() or ""


def ready(middle: Middle) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{middle.url}/ready", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextlib.contextmanager
def reserve_stays(disk: SmallDisk) -> Iterator[None]:
    """Look all the time whether a hundredth of the disk is free, but for what the node's own files need."""
    least, ended = disk.free, threading.Event()

    def watch() -> None:
        nonlocal least
        while not ended.wait(0.001):
            least = min(least, disk.free)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
    assert least >= 60 * U // 100 - 16 * 1024, f"{least} bytes were free"


# What goes


@pytest.mark.parametrize("shard_size", [SHARD, 64 * U], ids=["shards", "one shard"])
async def test_only_version_is_evicted_once_the_next_fills_the_disk(
    shard_size: int, disk: SmallDisk, tmp_path: Path
) -> None:
    async with nodes(tmp_path, disk) as (origin, middle):
        await broadcast(origin, random_bytes(34 * U, 1), shard_size)
        await here(middle, 1)
        await broadcast(origin, random_bytes(40 * U, 2), shard_size)
        with reserve_stays(disk):
            await here(middle, 2)
        assert disk.used < 42 * U
        async with Client([middle.url], tmp_path / "out") as client:
            assert (await client.download("latest")).version == "v2"
        assert (tmp_path / "out" / "download_v2.bin").read_bytes() == random_bytes(40 * U, 2)
        await until(lambda: middle.missing() is None)


async def test_oldest_versions_are_evicted_and_no_more_than_needed(disk: SmallDisk, tmp_path: Path) -> None:
    async with nodes(tmp_path, disk) as (origin, middle):
        for number in (1, 2, 3):
            await broadcast(origin, random_bytes(12 * U, number))
            await here(middle, *range(1, number + 1))
        await broadcast(origin, random_bytes(30 * U, 4))
        with reserve_stays(disk):
            await here(middle, 2, 3, 4)


async def test_shared_shards_are_linked_and_evict_nothing(disk: SmallDisk, tmp_path: Path) -> None:
    one = random_bytes(40 * U, 1)
    async with nodes(tmp_path, disk) as (origin, middle):
        await broadcast(origin, one)
        await here(middle, 1)
        await middle.folders.pin("v1")
        await broadcast(origin, random_bytes(12 * U, 2) + one[: 28 * U])
        await here(middle, 1, 2)
        assert middle.folders.quota.used == 52 * U
        await middle.folders.unpin("v1")
        await broadcast(origin, random_bytes(16 * U, 3) + one[: 28 * U])  # lacks 16, of which 7 are free
        await here(middle, 2, 3)  # and 12 more without the first
        assert middle.folders.quota.used == 56 * U


async def test_disk_filled_by_others_before_the_fetch_is_used(disk: SmallDisk, tmp_path: Path) -> None:
    async with nodes(tmp_path, disk) as (origin, middle):
        await broadcast(origin, random_bytes(20 * U, 1))
        await here(middle, 1)
        disk.fill(leaving=10 * U)
        await broadcast(origin, random_bytes(25 * U, 2))
        with reserve_stays(disk):
            await here(middle, 2)


@pytest.mark.parametrize("beside", [100 * 1024, 250 * 1024])
async def test_room_is_made_before_the_reserve_is_touched(
    beside: int, disk: SmallDisk, tmp_path: Path
) -> None:
    async with nodes(tmp_path, disk) as (origin, middle):
        await broadcast(origin, random_bytes(20 * U, 1))
        await here(middle, 1)
        disk.fill(leaving=U + beside)  # 157 kB are to stay
        await broadcast(origin, random_bytes(U, 2))
        await here(middle, *([2] if beside < 150_000 else [1, 2]))


async def test_disk_without_free_bytes_is_used(disk: SmallDisk, tmp_path: Path) -> None:
    async with nodes(tmp_path, disk) as (origin, middle):
        for number in (1, 2):
            await broadcast(origin, random_bytes(20 * U, number))
            await here(middle, *range(1, number + 1))
        disk.fill(leaving=0)
        assert disk.free == 0
        await broadcast(origin, random_bytes(18 * U, 3))
        await here(middle, 2, 3)
        await until(lambda: middle.missing() is None)


# What stays


@pytest.mark.parametrize("kept", ["pinned", "leased"])
async def test_kept_version_stays_and_lack_of_room_is_logged_once(
    kept: str, disk: SmallDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes(tmp_path, disk) as (origin, middle), contextlib.AsyncExitStack() as stack:
        await broadcast(origin, random_bytes(34 * U, 1))
        await here(middle, 1)
        if kept == "pinned":
            await middle.folders.pin("v1")
        else:
            stack.enter_context(middle.folders.leased("v1", "somebody"))
        before = disk.used
        await broadcast(origin, random_bytes(40 * U, 2))
        why = await lacks(middle, "v2")
        assert "v2" in why and "free some space" in why
        assert ("v1 pinned" in why) == (kept == "pinned")
        assert await asyncio.to_thread(ready, middle) == (503, f"503: v2 not here yet: {why}\n")
        changes = middle.status()["seconds_up"]
        await until(lambda: middle.status()["seconds_up"] > changes + 1, "three more looks")
        assert [one for one in caplog.messages if "no room" in one] == [why]
        assert middle.folders.complete_numbers == {1} and not middle.folders.open_numbers
        assert disk.used < before + U
        await middle.folders.unpin("v1") if kept == "pinned" else await stack.aclose()
        await here(middle, 2)
        await until(lambda: middle.missing() is None, "v1 to be passed over")
        assert (await asyncio.to_thread(ready, middle))[0] == 200
        assert "v2" not in [one["version"] for one in middle.status()["lacking"]]


@pytest.mark.parametrize("held", ["another name", "open"])
async def test_version_whose_bytes_would_not_come_free_is_not_evicted(
    held: str, disk: SmallDisk, tmp_path: Path
) -> None:
    async with nodes(tmp_path, disk) as (origin, middle), contextlib.AsyncExitStack() as stack:
        await broadcast(origin, random_bytes(34 * U, 1))
        await here(middle, 1)
        for shard in sorted((disk.path / "m" / "v1").glob("shard_*.bin")):
            if held == "open":
                stack.enter_context(shard.open("rb"))
            else:
                os.link(shard, disk.path / shard.name)
        await broadcast(origin, random_bytes(40 * U, 2))
        assert "nothing older can go" in await lacks(middle, "v2")
        assert middle.folders.complete_numbers == {1}
        await stack.aclose()
        for name in disk.path.glob("shard_*.bin"):
            name.unlink()
        await here(middle, 2)


async def test_endless_open_version_gives_its_room_back(
    disk: SmallDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with nodes(tmp_path, disk) as (origin, middle):
        for number in (1, 2):
            await broadcast(origin, random_bytes(15 * U, number))
            await here(middle, *range(1, number + 1))
        async with streaming(origin, SHARD) as (_, pipe):
            await write(pipe, random_bytes(52 * U, 3))  # more than is free without v1
            assert "goes only for one that is listed" in await lacks(middle, "v3")
            assert "retired v1: the disk is full" in caplog.messages
            assert 2 in middle.folders.complete_numbers  # the newest stays; v1 may come again by now
            assert not (disk.path / "m" / "v3").exists()
            await write(pipe, random_bytes(4 * U, 4))
            pipe.end()
            await here(middle, 3)  # now its size is known


async def test_disk_filled_by_others_ends_the_fetch_and_evicts_nothing(
    disk: SmallDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "origin"
    publish_here(source, random_bytes(20 * U, 1), SHARD)
    with BadServer(source) as server:
        server.set("/v2/shard_*", throttled(12 * U))
        async with Middle.running([server.url], disk.path / "m", *HTTP, check_interval=0.3) as middle:
            await here(middle, 1)
            await asyncio.to_thread(publish_here, source, random_bytes(32 * U, 2), SHARD)
            await until(lambda: middle.folders.verified_counts("v2")[1] > 4 * U, "some of v2")
            ballast = disk.fill(leaving=0)
            # It may be a small file of the middle's own, first, that has no room.
            await lacks(middle, "v2", "something else fills the disk")
            assert middle.folders.complete_numbers == {1} and not middle.folders.open_numbers
            await until(lambda: not (disk.path / "m" / "v2").exists(), "what it took to go")
            # Without v1 there would be room.
            os.truncate(ballast, ballast.stat().st_size - (14 * U - disk.free))
            asked = server.requested("/v2/manifest*")
            await until(lambda: server.requested("/v2/manifest*") > asked + 2, "more looks")
            assert middle.folders.complete_numbers == {1} and not middle.folders.open_numbers
            assert "something else fills the disk" in await lacks(middle, "v2"), "the reason is still told"
            assert len([one for one in caplog.messages if "no room for v2" in one]) == 1
            server.set("/v2/shard_*", throttled(100 * U))
            ballast.unlink()
            await here(middle, 1, 2)


async def test_silent_upstream_evicts_no_version(disk: SmallDisk, tmp_path: Path) -> None:
    source = tmp_path / "origin"
    publish_here(source, random_bytes(34 * U, 1), SHARD)
    with BadServer(source) as server:
        server.set("/v2/shard_*", throttled(1))
        async with Middle.running([server.url], disk.path / "m", *HTTP, check_interval=0.3) as middle:
            await here(middle, 1)
            await asyncio.to_thread(publish_here, source, random_bytes(40 * U, 2), SHARD)
            await until(lambda: server.requested("/v2/shard_*") > 2, "shards to be asked for")
            assert middle.folders.complete_numbers == {1}
            server.set("/v2/shard_*", throttled(200 * U))
        assert middle.folders.complete_numbers == {1}


# An origin


async def test_full_origin_discards_set_aside_versions_only(disk: SmallDisk, tmp_path: Path) -> None:
    async with Origin.running(disk.path / "data", *HTTP) as origin:
        await broadcast(origin, random_bytes(20 * U, 1))
        await origin.folders.change_line("0b" * 16, {}, 0)
        await origin.folders.change_line(origin.folders.data_dir.origin_id, {}, 0)
        assert [one.number for one in origin.folders.aside] == [1]
        await broadcast(origin, random_bytes(20 * U, 2))
        await broadcast(origin, random_bytes(30 * U, 3))
        assert origin.folders.complete_numbers == {2, 3} and not list(origin.folders.aside)
        with pytest.raises(LocalDiskError, match="No space left"):
            await broadcast(origin, random_bytes(20 * U, 4))
        assert origin.folders.complete_numbers == {2, 3}
        assert disk.used < 52 * U
