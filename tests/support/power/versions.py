"""Recorded work on versions: published, received and changed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin, publishing
from shardcast.nodes.outputs import OutputFolder
from shardcast.nodes.publisher import Publisher
from shardcast.nodes.release_folder import finish_announcing, start_announcing
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.feed import COMPLETE
from shardcast.store.live_manifest import LiveManifest
from tests.support import payloads
from tests.support.folders import StoredNode, receive_shards, receive_version
from tests.support.payloads import sha256
from tests.support.power.working import DAY, LINES, SHARD, mark, payload, sync, work

LONG_AGO = 3 * DAY
"""Seconds before now at which a version was received, in ``change``."""


def file_of(base: Path, number: int) -> Path:
    """Return a file with the payload of a version, beside what is recorded."""
    file = base.with_name(f"{base.name}.payloads") / str(number)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(payload(number))
    return file


async def broadcast(publisher: Publisher | Origin, base: Path, number: int, **how: Any) -> None:
    """Broadcast a version, and mark its number and its completion."""
    under_way = await publisher.publish(how.pop("file", None) or file_of(base, number), SHARD, **how)
    assert under_way.version == f"v{number}"
    mark(numbered=number)
    await under_way.result()
    mark(published=number)


@work
async def publish(base: Path) -> None:
    """Publish files into a new directory; one is aborted, and the publisher starts again."""
    async with publishing(base / "new" / "data") as publisher:
        await broadcast(publisher, base, 1)
        await broadcast(publisher, base, 2)
        given_up = await publisher.publish(file_of(base, 3), SHARD)
        mark(numbered=3)
        given_up.cancel()
        await asyncio.gather(given_up.result(), return_exceptions=True)
    async with publishing(base / "new" / "data") as publisher:
        await broadcast(publisher, base, 4)


@work
async def publish_links(base: Path) -> None:
    """Publish files without a copy, which their writer synced as little as trainers do."""
    async with publishing(base / "data") as publisher:
        for number in (1, 2):
            file = base / f"model-{number}.bin"
            file.write_bytes(payload(number))
            await broadcast(publisher, base, number, file=file, copy=False)


@work
async def publish_pipe(base: Path) -> None:
    """Publish what comes out of a pipe."""
    async with publishing(base / "data") as publisher:
        for number in (1, 2):
            with writing(payload(number)) as source:
                under_way = await publisher.publish_stream(source, "pipe", SHARD)
                mark(numbered=number)
                await under_way.result()
                mark(published=number)


@contextmanager
def writing(data: bytes, pause: threading.Event | None = None) -> Iterator[Any]:
    """Yield a pipe into which a thread writes; in the middle it waits for ``pause``."""
    reading, sink = os.pipe()

    def write() -> None:
        with os.fdopen(sink, "wb", 0) as pipe:
            half = SHARD + 500
            pipe.write(data[:half])
            if pause:
                pause.wait(30)
            pipe.write(data[half:])

    thread = threading.Thread(target=write)
    thread.start()
    yield os.fdopen(reading, "rb", buffering=0)
    thread.join()


@work
async def retire(base: Path) -> None:
    """Publish more versions than are kept, with one that is pinned and later unpinned."""
    async with Origin.running(base / "data", "127.0.0.1", 0, keep=2, shard_size=SHARD) as origin:
        mark(keep=2)
        await broadcast(origin, base, 1)
        await origin.folders.pin("v1")
        mark(pinned=1)
        for number in (2, 3, 4):
            await broadcast(origin, base, number)
        mark(unpinning=1)
        await origin.folders.unpin("v1")
        mark(unpinned=1)
        await broadcast(origin, base, 5)
        await origin.folders.pin("v5")
        mark(pinned=5)
        mark(unpinning=5)
        await origin.folders.unpin("v5")
        mark(unpinned=5)


@work
async def withdraw(base: Path) -> None:
    """Withdraw a version."""
    async with publishing(base / "data") as publisher:
        await broadcast(publisher, base, 1)
        await broadcast(publisher, base, 2)
    node = StoredNode(base / "data")
    folders = node.start("origin")
    mark(withdrawing=2)
    await folders.withdraw_own("v2", "bad")
    mark(withdrawn=2)
    node.stop()
    async with publishing(base / "data") as publisher:
        await broadcast(publisher, base, 3)


@work
async def relay(base: Path) -> None:
    """Run a middle over complete versions, one that is being made, and some that retire."""
    upstream = base.with_name("relay.upstream")
    async with Origin.running(upstream, "127.0.0.1", 0, shard_size=SHARD) as origin:
        under_way = await origin.publish(file_of(base, 1))
        await under_way.result()
        async with Middle.running(
            [origin.url], base / "data", "127.0.0.1", 0, check_interval=0.5, keep=2
        ) as middle:
            mark(keep=2)
            events = middle.folders.events
            tell = events.add

            def telling(kind: str, version: str, *more: Any, **named: Any) -> None:
                if kind == COMPLETE:
                    mark(published=int(version[1:]))
                tell(kind, version, *more, **named)

            events.add = telling  # type: ignore[method-assign]

            async def until(number: int, where: Callable[[], set[int]]) -> None:
                while number not in where():
                    await asyncio.sleep(0.005)

            await until(1, lambda: middle.folders.complete_numbers)
            pause = threading.Event()
            with writing(payload(2), pause) as source:
                streaming = await origin._publisher.publish_stream(source, "pipe", SHARD)
                await until(2, lambda: middle.folders.open_numbers | middle.folders.complete_numbers)
                pause.set()
                await streaming.result()
            await until(2, lambda: middle.folders.complete_numbers)
            for number in (3, 4):
                under_way = await origin.publish(file_of(base, number))
                await under_way.result()
                await until(number, lambda: middle.folders.complete_numbers)


@work
async def change(base: Path) -> None:
    """Change a node between two lines whose versions came long ago."""
    node, one, other = StoredNode(base / "data"), *LINES
    folders = node.start(keep=1000)
    await folders.change_line(one, {}, 0)
    listed = {number: sha256(payload(number)) for number in (1, 2)}
    for number, digest in listed.items():
        await folders.record_listed([Listing(f"v{number}", digest, 1)])
        await receive_version(folders, payload(number), f"v{number}", one)
        mark(had=[one, number, number])
    await folders.pin("v1")
    mark(pinned=[one, 1])
    for number in (1, 2):
        stamp(base / "data" / f"v{number}")
    manifest = payloads.manifest(payload(7), "v1", origin=other)
    opened = await folders.begin_beside(other, LiveManifest.of(manifest))
    await receive_shards(opened, manifest, payload(7))
    await opened.complete(manifest)
    mark(beside=[other, 1, 7])
    mark(changing=True)
    await folders.change_line(other, {1: sha256(payload(7))}, 1)
    mark(line=other, had=[other, 1, 7])
    mark(changing=True)
    await folders.change_line(one, listed, 2)
    mark(line=one)
    mark(withdrawing=2)
    await folders.withdraw(Withdrawal("v2", listed[2], "bad"))
    mark(withdrawn=2)
    node.stop()


def stamp(folder: Path) -> None:
    """Make a version's folder look as if its last shard came long ago, durably."""
    then = folder.stat().st_mtime - LONG_AGO
    os.utime(folder, (then, then))
    sync(folder)


@work
async def download(base: Path) -> None:
    """Download a version into a file of a new folder, then the next one into the same file."""
    async with (
        Origin.running(base.with_name("download.upstream"), "127.0.0.1", 0, shard_size=SHARD) as origin,
        Client([origin.url]) as client,
    ):
        for number in (1, 2):
            under_way = await origin.publish(file_of(base, number))
            await under_way.result()
            await client.download(f"v{number}", base / "new" / "folder" / "model.bin")
            mark(downloaded=number)


@work
async def follow(base: Path) -> None:
    """Download versions into a folder, announced as ``shardcast-client --follow --keep 2`` does."""
    folder = base / "new" / "versions"
    upstream = base.with_name("follow.upstream")
    async with Origin.running(upstream, "127.0.0.1", 0, shard_size=SHARD) as origin:  # noqa: SIM117
        async with Client([origin.url], folder) as client:
            outputs = OutputFolder(folder)
            under_way = await origin.publish(file_of(base, 1))
            await under_way.result()
            releases = client.follow("v1", every=True, check_interval=0.5, latest=False)
            async for release in releases:
                mark(received=release.number, origin=release.origin)
                assert start_announcing(outputs, release)
                mark(latest=release.number)
                finish_announcing(outputs, release, 2)
                mark(announced=release.number)
                if release.number == 4:
                    break
                under_way = await origin.publish(file_of(base, release.number + 1))
                await under_way.result()
            await releases.aclose()
