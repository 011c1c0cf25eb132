"""``--max-bytes``: what the versions of a data directory may take together, and who makes room for whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import shardcast
from shardcast.control.writer import BroadcastWriter
from shardcast.errors import NoRoom, VersionAborted
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest
from shardcast.sizes import format_size
from shardcast.store.data_dir import DataDir
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.versions import VersionFolders
from tests.integration.test_live import Pipe, live_server
from tests.support import payloads, processes
from tests.support.bad_answers import throttled
from tests.support.bad_servers import BadServer
from tests.support.folders import receive_shards, receive_version
from tests.support.payloads import manifest, publish, random_bytes
from tests.support.published import publish as publish_here

HTTP = "127.0.0.1", 0
KB = 4096
"""A block: what takes room."""
SHARD = 50 * KB
LOCAL_DISK = 6
OVERHEAD = (20 + 32) * KB
"""Bytes of everything in a small data directory that is no payload."""


async def until(condition: Callable[[], object], what: str = "the condition", seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def folders(data_dir: Path, max_bytes: int | None = None, resume: bool = True) -> Iterator[VersionFolders]:
    held = DataDir(data_dir, "middle")
    try:
        found = VersionFolders(held, max_bytes=max_bytes)
        found.load(resume)
        yield found
    finally:
        held.close()


def described(version: str, size: int) -> Manifest:
    return manifest(random_bytes(size), version, SHARD)


async def broadcast(origin: Origin, size: int, seed: int = 0) -> str:
    """Publish so many bytes; returns the version."""
    file = origin.folders.data_dir.root.with_name(f"payload-{seed or size}")
    file.write_bytes(random_bytes(size, seed or size))
    made = await origin.publish(file, SHARD)
    await made.result()
    return made.version


@contextlib.asynccontextmanager
async def streaming(
    origin: Origin, shard_size: int = SHARD
) -> AsyncIterator[tuple[asyncio.Task[None], Pipe]]:
    """A broadcast of what is written to the pipe, and its end."""
    pipe = Pipe()
    made = await origin.publish_stream(pipe.source, "model.bin", shard_size)
    result = asyncio.ensure_future(made.result())
    try:
        yield result, pipe
    finally:
        pipe.end()
        with contextlib.suppress(shardcast.ShardcastError):
            await result


async def write(pipe: Pipe, data: bytes) -> None:
    """Write until nobody takes any more."""
    with contextlib.suppress(BrokenPipeError):
        await pipe.write(data)


def files(root: Path) -> dict[tuple[str, int], int]:
    """Bytes of each file."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            file = f"{folder}/{name}"
            with contextlib.suppress(OSError):
                looks = os.lstat(file)
                found[file, looks.st_ino] = looks.st_size
    return found


def on_disk(root: Path) -> int:
    """Bytes of all files that are there for as long as it takes to look twice."""
    before, after = files(root), files(root)
    there = {
        inode: min(size, after[file, inode])
        for (file, inode), size in before.items()
        if (file, inode) in after
    }
    return sum(there.values())


class Watcher:
    """The most bytes that a directory took at any time."""

    def __init__(self, root: Path) -> None:
        self.most = 0
        self._root = root
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self.most = max(self.most, on_disk(self._root))

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


# An origin -----------------------------------------------------------------------------------------


async def test_oldest_versions_are_evicted_first_and_read_ones_last(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=400 * KB) as origin:
        for seed in range(1, 5):
            await broadcast(origin, 100 * KB, seed)
        assert origin.folders.complete_numbers == {1, 2, 3, 4}
        with origin.folders.leased("v1", "somebody"):
            await broadcast(origin, 100 * KB, 5)
            assert origin.folders.complete_numbers == {1, 3, 4, 5}
            await broadcast(origin, 200 * KB, 6)
            assert origin.folders.complete_numbers == {1, 5, 6}
            await broadcast(origin, 300 * KB, 7)  # whoever reads from afar keeps nobody from publishing
            assert origin.folders.complete_numbers == {7}
            await until(lambda: not origin.folders.holds.holds_on(1))


async def test_broadcast_is_refused_only_for_pins_and_names_them(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=400 * KB) as origin:
        for seed in range(1, 4):
            await broadcast(origin, 100 * KB, seed)
        await origin.folders.pin("v1")
        await origin.folders.pin("v3")
        with pytest.raises(NoRoom) as refused:
            await broadcast(origin, 201 * KB)
        for word in ("v1, v3", "v4", format_size(201 * KB), format_size(400 * KB), "unpin", "--max-bytes"):
            assert word in str(refused.value)
        assert origin.folders.complete_numbers == {1, 2, 3}  # and nothing went for it
        assert origin.folders.open_numbers == set()
        assert not (tmp_path / "data" / "v4").exists()
        assert origin.folders.quota.used == 300 * KB
        assert await broadcast(origin, 200 * KB) == "v5"
        assert origin.folders.complete_numbers == {1, 3, 5}
        await origin.folders.unpin("v1")
        assert await broadcast(origin, 201 * KB) == "v6"


async def test_too_large_version_evicts_nothing(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=300 * KB) as origin:
        await broadcast(origin, 100 * KB, 1)
        await origin.folders.pin("v1")
        await broadcast(origin, 100 * KB, 2)
        with pytest.raises(NoRoom, match=format_size(301 * KB)):
            await broadcast(origin, 301 * KB)
        assert origin.folders.complete_numbers == {1, 2}
        assert on_disk(tmp_path / "data") < 200 * KB + OVERHEAD
        await origin.folders.unpin("v1")
        assert await broadcast(origin, 300 * KB) == "v4"
        assert origin.folders.complete_numbers == {4}


def test_broadcast_without_room_ends_with_6_and_advice(tmp_path: Path) -> None:
    """Also where no origin runs: the bound of the last one counts."""
    data, small, large = tmp_path / "data", tmp_path / "small", tmp_path / "large"
    small.write_bytes(random_bytes(60 * KB))
    large.write_bytes(random_bytes(150 * KB))
    publish_words = ("--data-dir", str(data), "--quiet", "--shard-size", str(SHARD))
    with processes.origin(data, "--max-bytes", str(200 * KB), "--keep", "9"):
        assert processes.run("broadcast", str(small), *publish_words).stdout == "v1\n"
        assert processes.run("pin", "v1", "--data-dir", str(data)).returncode == 0
        refused = [processes.run("broadcast", str(large), *publish_words)]
    refused.append(processes.run("broadcast", str(large), *publish_words))
    for done in refused:
        assert done.returncode == LOCAL_DISK, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert "v1 pinned" in done.stderr
        assert "unpin" in done.stderr
    assert [entry.name for entry in sorted(data.glob("v*"))] == ["v1"]
    assert processes.run("unpin", "v1", "--data-dir", str(data)).returncode == 0
    assert processes.run("broadcast", str(large), *publish_words).stdout == "v4\n"
    assert [entry.name for entry in sorted(data.glob("v*"))] == ["v4"]


def test_library_bounds_bytes_and_raises_when_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(100 * KB))
    origin = shardcast.OriginServer(tmp_path / "data", 0, max_bytes=250 * KB)
    try:
        for number in range(1, 4):
            file.write_bytes(random_bytes(100 * KB, seed=number))
            assert origin.broadcast(file, SHARD) == f"v{number}"
        assert sorted(entry.name for entry in (tmp_path / "data").glob("v*")) == ["v2", "v3"]
        file.write_bytes(random_bytes(251 * KB))
        with pytest.raises(NoRoom, match=format_size(251 * KB)):
            origin.broadcast(file, SHARD)
        with pytest.raises(NoRoom), origin.open_broadcast("stream", SHARD) as out:
            for _ in range(100):
                out.write(random_bytes(SHARD))
        with urllib.request.urlopen(f"{origin.url}/status", timeout=10) as answer:
            told = json.load(answer)
        assert told["disk"]["max_bytes"] == 250 * KB
        assert told["disk"]["used"] <= 250 * KB
        assert {one["state"] for one in told["versions"]} <= {"complete"}
        file.write_bytes(random_bytes(10 * KB))
        assert origin.broadcast(file, SHARD) == "v6"
    finally:
        origin.shutdown()


# Streams ---------------------------------------------------------------------------------------------


async def test_stream_makes_room_as_it_grows(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=400 * KB) as origin:
        for seed in range(1, 5):
            await broadcast(origin, 100 * KB, seed)
        async with streaming(origin) as (result, pipe):
            await pipe.write(random_bytes(90 * KB))
            await until(lambda: origin.folders.complete_numbers == {2, 3, 4}, "v1 to go")
            await pipe.write(random_bytes(100 * KB))
            await until(lambda: origin.folders.complete_numbers == {3, 4}, "v2 to go")
            pipe.end()
            await result
        assert origin.folders.complete_numbers == {3, 4, 5}
        assert origin.folders.quota.used == 390 * KB  # what it claimed beyond its end is free again


@pytest.mark.parametrize("size", [100 * KB, 2 * SHARD - 1, 2 * SHARD, 1, 0])
async def test_stream_that_fits_exactly_is_published(size: int, tmp_path: Path) -> None:
    space = -(-size // KB) * KB
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=max(space, 1)) as origin:
        async with streaming(origin) as (result, pipe):
            await write(pipe, random_bytes(size))
            pipe.end()
            await result
        assert origin.folders.complete_numbers == {1}
        assert origin.folders.quota.used == space


async def test_short_stream_takes_only_its_own_bytes(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=300 * KB) as origin:
        await broadcast(origin, 250 * KB)
        async with streaming(origin, shard_size=50_000 * KB) as (result, pipe):
            await write(pipe, random_bytes(40 * KB))
            pipe.end()
            await result
        assert origin.folders.complete_numbers == {1, 2}


async def test_stream_without_room_is_aborted_on_every_node(tmp_path: Path) -> None:
    async with (
        Origin.running(tmp_path / "data", *HTTP, max_bytes=400 * KB) as origin,
        Middle.running([origin.url], tmp_path / "m", *HTTP) as middle,
    ):
        await broadcast(origin, 200 * KB)
        await origin.folders.pin("v1")
        async with streaming(origin) as (result, pipe):
            await pipe.write(random_bytes(100 * KB))
            await until(lambda: middle.folders.verified_counts("v2")[1], "the first shards at the middle")
            await write(pipe, random_bytes(2000 * KB))
            with pytest.raises(NoRoom, match=r"v1 pinned"):
                await result
        for node in (origin, middle):
            await until(lambda node=node: not node.folders.open_numbers)  # type: ignore[misc]
            folder = node.folders.data_dir.folder(2)
            await until(lambda folder=folder: not folder.exists(), "its folder to go")  # type: ignore[misc]
            assert node.folders.complete_numbers == {1}
        assert await broadcast(origin, 150 * KB) == "v3"
        await until(lambda: middle.folders.complete_numbers == {1, 3}, "v3 at the middle")


async def test_writer_gets_reason_when_stream_has_no_room(tmp_path: Path) -> None:
    def stream() -> None:
        with BroadcastWriter(tmp_path / "data", "model.bin", SHARD) as out:
            for _ in range(200):
                out.write(bytes(SHARD))
                out.flush()

    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=120 * KB) as origin:
        with pytest.raises(NoRoom, match="--max-bytes"):
            await asyncio.to_thread(stream)
        await until(lambda: not origin.folders.open_numbers)
        assert origin.folders.quota.used == 0


async def test_follower_keeps_nothing_of_stream_without_room(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=150 * KB) as origin:

        async def follow() -> str:
            async with Client([origin.url], tmp_path / "out") as client:
                async for release in client.follow():
                    return release.version
            raise AssertionError("it ended")

        following = asyncio.ensure_future(follow())
        async with streaming(origin) as (result, pipe):
            await pipe.write(random_bytes(100 * KB + 10))
            await until(lambda: list((tmp_path / "out").glob(".*.part")), "the follower")
            await write(pipe, random_bytes(1000 * KB))
            with pytest.raises(NoRoom):
                await result
        await until(lambda: not list((tmp_path / "out").glob(".*.part*")), "the .part to go")
        await broadcast(origin, 10 * KB)
        assert await asyncio.wait_for(following, 30) == "v2"


# Middles ---------------------------------------------------------------------------------------------


async def test_middle_keeps_newest_versions_with_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    async with Origin.running(tmp_path / "origin", *HTTP) as origin:
        for size in (20, 100, 101, 102):
            await broadcast(origin, size * KB)
        async with Middle.running(
            [origin.url], tmp_path / "m", *HTTP, check_interval=0.3, max_bytes=230 * KB
        ) as middle:
            await until(lambda: middle.missing() is None, "it to have caught up")
            assert middle.folders.complete_numbers == {1, 3, 4}  # v2 has no room beside newer ones
            await asyncio.sleep(1.5)  # it looks again and again
            assert middle.folders.complete_numbers == {1, 3, 4}
            assert on_disk(tmp_path / "m") <= 230 * KB + OVERHEAD
            told = [record.getMessage() for record in caplog.records if "no room" in record.getMessage()]
            assert len(told) == 1
            assert "v2" in told[0]
            await broadcast(origin, 103 * KB)
            await until(lambda: middle.folders.complete_numbers >= {4, 5}, "the new one")
            assert 3 not in middle.folders.complete_numbers
            assert middle.folders.quota.used <= 230 * KB


async def test_middle_stays_ready_when_versions_have_no_room(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "origin", *HTTP) as origin:
        for seed in range(1, 5):
            await broadcast(origin, 100 * KB, seed)
        async with Middle.running(
            [origin.url], tmp_path / "m", *HTTP, check_interval=0.2, max_bytes=250 * KB
        ) as middle:
            await until(lambda: middle.missing() is None, "it to have caught up")
            behind, ends = set(), time.monotonic() + 1.5
            while time.monotonic() < ends:
                behind.add(middle.missing())
                await asyncio.sleep(0)
            assert behind == {None}


async def test_skipped_version_is_not_announced_below(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "origin", *HTTP) as origin:
        for seed in range(1, 4):
            await broadcast(origin, 100 * KB, seed)
        async with Middle.running(
            [origin.url], tmp_path / "m", *HTTP, check_interval=0.2, max_bytes=250 * KB
        ) as middle:
            await until(lambda: middle.missing() is None, "it to have caught up")
            seq = middle.folders.events.seq
            await asyncio.sleep(1)
            assert middle.folders.events.seq == seq


async def test_open_version_without_room_at_middle_is_skipped(
    tmp_path: Path,
) -> None:
    one = publish_here(tmp_path / "origin", random_bytes(500 * KB), SHARD)
    lines = one.manifest.raw.splitlines(keepends=True)
    for count in (len(lines), len(lines) - 1):
        data = tmp_path / f"m{count}"
        with live_server(one.data_dir, lines[:count]) as server:
            async with Middle.running([server.url], data, *HTTP, max_bytes=200 * KB) as middle:
                with Watcher(data) as watcher:
                    await until(lambda: server.requested("/v1/manifest*"), "the middle to ask")
                    await asyncio.sleep(1)
                assert middle.folders.complete_numbers == set()
                assert watcher.most <= 200 * KB + OVERHEAD


async def test_pins_at_middle_keep_out_new_versions(tmp_path: Path) -> None:
    async with (
        Origin.running(tmp_path / "origin", *HTTP) as origin,
        Middle.running([origin.url], tmp_path / "m", *HTTP, check_interval=0.3, max_bytes=250 * KB) as middle,
    ):
        await broadcast(origin, 100 * KB, 1)
        await broadcast(origin, 100 * KB, 2)
        await until(lambda: middle.folders.complete_numbers == {1, 2})
        await middle.folders.pin("v1")
        await middle.folders.pin("v2")
        await broadcast(origin, 100 * KB, 3)
        await until(lambda: "v1, v2 pinned" in (middle.missing() or ""), "v3 to be passed over")
        (lacking,) = middle.status()["lacking"]
        assert lacking["version"] == "v3" and lacking["why"] in (middle.missing() or "")
        assert middle.folders.complete_numbers == {1, 2}
        await middle.folders.unpin("v1")
        await until(lambda: middle.folders.complete_numbers == {2, 3}, "v3 at the next look")
        await until(lambda: middle.missing() is None, "it to have caught up")
        assert "v3" not in [one["version"] for one in middle.status()["lacking"]]


# At any time -----------------------------------------------------------------------------------------


async def test_disk_usage_never_exceeds_the_bound(tmp_path: Path) -> None:
    """An origin that publishes files and streams, and a middle with less room."""
    async with (
        Origin.running(tmp_path / "origin", *HTTP, max_bytes=400 * KB) as origin,
        Middle.running([origin.url], tmp_path / "m", *HTTP, check_interval=0.2, max_bytes=300 * KB) as middle,
    ):
        with Watcher(tmp_path / "origin") as at_origin, Watcher(tmp_path / "m") as at_middle:
            for number, size in enumerate((100, 120, 90, 250, 30, 260, 140), 1):
                if number % 2:
                    assert await broadcast(origin, size * KB) == f"v{number}"
                else:
                    async with streaming(origin) as (result, pipe):
                        await write(pipe, random_bytes(size * KB, number))
                        pipe.end()
                        await result
                await until(lambda number=number: number in middle.folders.complete_numbers)  # type: ignore[misc]
        assert at_origin.most <= 400 * KB + OVERHEAD
        assert at_middle.most <= 300 * KB + OVERHEAD
        assert at_middle.most > 250 * KB


async def test_lowered_bound_applies_from_next_start(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP) as origin:
        for seed in range(1, 6):
            await broadcast(origin, 100 * KB, seed)
        await origin.folders.pin("v1")
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=350 * KB) as origin:
        assert origin.folders.complete_numbers == {1, 4, 5}
        assert on_disk(tmp_path / "data") <= 350 * KB + OVERHEAD
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=10 * KB) as origin:
        assert origin.folders.complete_numbers == {1, 5}  # what is newest is kept, whatever it takes
        with pytest.raises(NoRoom):
            await broadcast(origin, 1)
    async with Origin.running(tmp_path / "data", *HTTP) as origin:  # without a bound it is remembered no more
        await broadcast(origin, 500 * KB)
        assert origin.folders.complete_numbers == {1, 5, 7}


# Claims ----------------------------------------------------------------------------------------------


async def test_refused_version_evicts_nothing_at_any_tidying(tmp_path: Path) -> None:
    with folders(tmp_path / "data", 100 * KB) as found:
        for seed in range(3):
            await publish(found, random_bytes(20 * KB, seed))
        await found.begin_version(9, LiveManifest.of(described("v9", 500 * KB)))
        await found.tidy()
        assert found.complete_numbers == {1, 2, 3}
        with pytest.raises(NoRoom):
            await found.quota.claim(9, 500 * KB)
        await found.tidy()
        assert found.complete_numbers == {1, 2, 3}
        await found.discard(9)
        assert found.quota.used == 60 * KB


async def test_start_with_less_room_evicts_nothing_for_too_large_version(
    tmp_path: Path,
) -> None:
    with folders(tmp_path / "data") as found:
        for seed in range(3):
            await publish(found, random_bytes(20 * KB, seed))
        await found.begin_version(9, LiveManifest.of(described("v9", 500 * KB)))
    with folders(tmp_path / "data", 100 * KB) as found:
        await found.tidy()
        assert found.complete_numbers == {1, 2, 3}


async def test_version_pinned_during_eviction_stays_within_bound(
    tmp_path: Path,
) -> None:
    with folders(tmp_path / "data", 100 * KB) as found:
        for seed in range(4):
            await publish(found, random_bytes(20 * KB, seed))
        await found.begin_version(9)
        claiming = asyncio.ensure_future(found.quota.claim(9, 90 * KB))
        while 1 in found.complete_numbers and not claiming.done():
            await asyncio.sleep(0)
        await found.pin("v4")
        with pytest.raises(NoRoom, match="v4 pinned"):
            await claiming
        assert 4 in found.complete_numbers
        assert found.quota.used <= 100 * KB


async def test_concurrent_reservations_stay_within_bound(tmp_path: Path) -> None:
    with folders(tmp_path / "data", 100 * KB) as found:
        await publish(found, random_bytes(50 * KB))
        for number in range(2, 12):
            await found.begin_version(number)
        outcomes = await asyncio.gather(
            *(found.quota.claim(number, 30 * KB) for number in range(2, 12)), return_exceptions=True
        )
        assert sum(outcome is None for outcome in outcomes) == 3
        assert all(outcome is None or isinstance(outcome, NoRoom) for outcome in outcomes)
        assert found.quota.used == 90 * KB


async def test_aborted_version_takes_no_room(tmp_path: Path) -> None:
    with folders(tmp_path / "data", 100 * KB) as found:
        await publish(found, random_bytes(50 * KB))
        opened = await found.begin_version(2)
        await found.quota.claim(2, 40 * KB)
        assert found.quota.used == 90 * KB
        await found.discard(2)
        assert found.quota.used == 50 * KB
        assert isinstance(opened.live.error, VersionAborted)
        await found.quota.claim(2, 90 * KB)  # nobody opened it
        assert found.complete_numbers == {1}


# A rate-limited server keeps what a version takes while it comes from being over in a moment.


async def test_arriving_version_counts_in_full_from_first_byte(tmp_path: Path) -> None:
    one = publish_here(tmp_path / "origin", random_bytes(200 * KB), SHARD)
    with BadServer(one.data_dir).set("/v1/shard_*", throttled(100 * KB)) as server:
        async with Middle.running([server.url], tmp_path / "m", *HTTP, max_bytes=250 * KB) as middle:
            await until(
                lambda: middle.folders.verified_counts("v1")[1] > 0 or server.sent_bytes("/v1/shard_*")
            )
            assert middle.folders.quota.used == 200 * KB
            assert payloads.read_shards(tmp_path / "m" / "v1") != one.payload
            await until(lambda: middle.folders.complete_numbers == {1})
            assert middle.folders.quota.used == 200 * KB


# Blocks ----------------------------------------------------------------------------------------------


async def test_quota_counts_disk_blocks(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=60 * KB) as origin:
        file = tmp_path / "payload"
        file.write_bytes(random_bytes(50))
        await (await origin.publish(file, 1)).result()
        sizes = {one.stat().st_ino: one.stat().st_blocks * 512 for one in tmp_path.glob("data/v1/shard_*")}
        assert origin.folders.quota.used == sum(sizes.values())
        file.write_bytes(random_bytes(61))
        with pytest.raises(NoRoom, match="61 B"):
            await (await origin.publish(file, 1)).result()
        assert origin.folders.complete_numbers == {1}


@pytest.mark.parametrize("restart", [False, True])
async def test_hard_linked_shards_count_once(restart: bool, tmp_path: Path) -> None:
    one, data = random_bytes(4 * SHARD), tmp_path / "data"
    with folders(data) as found:
        await publish(found, one, SHARD)
        await publish(found, one[: 3 * SHARD] + random_bytes(SHARD, 2), SHARD)
        assert found.quota.used == 5 * SHARD
        if not restart:
            await found.retire(1)
            assert found.quota.used == 4 * SHARD
    with folders(data) as found:
        assert found.quota.used == (5 if restart else 4) * SHARD
        for number in found.complete_numbers:
            await found.retire(number)
        assert found.quota.used == 0


@pytest.mark.parametrize("link", [False, True])
async def test_linked_payload_counts_blocks_of_its_file(link: bool, tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP) as origin:
        file = tmp_path / "payload"
        file.write_bytes(random_bytes(10 * KB))
        await (await origin.publish(file, SHARD, copy=not link)).result()
        assert origin.folders.quota.used == 10 * KB


async def test_unlisted_whole_version_takes_its_turn_when_listed(tmp_path: Path) -> None:
    """Its last line came before the list that names it: the newest stays for a moment, and goes then."""
    with folders(tmp_path / "data", 7 * SHARD) as found:
        data = {number: random_bytes(3 * SHARD, number) for number in (1, 2)}
        for number, one in data.items():
            await found.record_listed([Listing(f"v{number}", payloads.sha256(one), 3)])
            await receive_version(found, one, f"v{number}")
        new = random_bytes(7 * SHARD, 3)
        manifest_3 = payloads.manifest(new, "v3", SHARD)
        opened = await found.begin_version(3, LiveManifest.of(manifest_3))
        opened.still_published = True
        with pytest.raises(NoRoom, match="goes only for one that is listed"):
            await receive_shards(opened, manifest_3, new)
        assert 2 in found.complete_numbers
        await found.record_listed([Listing("v3", payloads.sha256(new), 7)])
        found.quota.record_out_of_room(opened)
        await found.discard(3)
        await receive_version(found, new, "v3", shard_size=SHARD)
        assert found.complete_numbers == {3} and found.quota.used == 7 * SHARD


async def test_part_that_is_not_fetched_gives_way_to_newer_version(tmp_path: Path) -> None:
    """Its servers may have it no more, and what is whole is worth more."""
    with folders(tmp_path / "data", 7 * SHARD) as found:
        whole, part, new = (random_bytes(size * SHARD, size) for size in (2, 4, 5))
        for number, data in enumerate((whole, part, new), 1):
            await found.record_listed([Listing(f"v{number}", payloads.sha256(data), len(data) // SHARD)])
        await receive_version(found, whole, "v1", shard_size=SHARD)
        described_part = payloads.manifest(part, "v2", SHARD)
        opened = await found.begin_version(2, LiveManifest.of(described_part))
        await receive_shards(opened, described_part, part, 1)
        landing = await opened.landing(described_part.shards[1])
        await landing.land(0, part[SHARD : SHARD + SHARD // 2])
        landing.close()
        await receive_version(found, new, "v3", shard_size=SHARD)
        assert found.complete_numbers == {1, 3} and not found.open_numbers
        assert found.quota.used == 7 * SHARD
        assert not (tmp_path / "data" / "v2").exists()


@pytest.mark.parametrize("case", ["fetched", "newer"])
async def test_other_parts_keep_their_room(case: str, tmp_path: Path) -> None:
    with folders(tmp_path / "data", 5 * SHARD) as found:
        part, number = random_bytes(4 * SHARD), 2 if case == "fetched" else 4
        described_part = payloads.manifest(part, f"v{number}", SHARD)
        opened = await found.begin_version(number, LiveManifest.of(described_part))
        await receive_shards(opened, described_part, part, 3)
        if case == "fetched":
            await found.quota.begin_fetch(number)
        with pytest.raises(NoRoom):
            await found.check_room(described("v3", 5 * SHARD))
        assert found.open_numbers == {number}


# Threads ---------------------------------------------------------------------------------------------


async def test_usage_can_be_read_while_threads_store_shards(
    tmp_path: Path,
) -> None:
    """Only the event loop changes what it iterates over; what threads count are running totals."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with folders(tmp_path / "data") as found:
            opened = await found.begin_version(1, LiveManifest.of(payloads.manifest(bytes(400), "v1", 1)))

            def store() -> None:
                for shard in range(1, 401):
                    opened.files.part(shard).write_bytes(b"x")
                    opened.files.publish_shard(shard, "")

            looks = [found.quota.used]
            working = asyncio.gather(
                asyncio.to_thread(store), *(found.begin_version(number) for number in range(2, 80))
            )
            while not working.done():
                looks.append(found.quota.used)
                await asyncio.sleep(0)
            await working
            assert looks == sorted(looks)
            assert found.quota.used == 400 * KB
    finally:
        sys.setswitchinterval(interval)
