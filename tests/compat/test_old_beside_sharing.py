"""Published older shardcasts beside clients and middles that share, in every position: all get every byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shardcast.fair_limit import FairLimit
from shardcast.nodes.middle import Middle
from shardcast.server.bounds import Bounds
from tests.support import legacy, processes
from tests.support.legacy import OldShardcast, get, listed
from tests.support.published import random_bytes
from tests.support.sharing import Sharer, sharer, until

pytestmark = pytest.mark.legacy

# Fixtures of this module too.
old = legacy.old
newer_old = legacy.newer_old

SIZE = 5_000_000  # middles fetch smaller versions at once
SHARD = 600_000
SHARDS = 9
SLOW = 2_000_000
"""Bytes a second that a server of ours sends: clients get much of a version from each other."""


@pytest.fixture(params=["0.1.0", "0.3.2"])
def release(request: pytest.FixtureRequest) -> OldShardcast:
    """An older shardcast."""
    found: OldShardcast = request.getfixturevalue("old" if request.param == "0.1.0" else "newer_old")
    return found


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "payload.bin"
    path.write_bytes(random_bytes(SIZE))
    return path


@contextlib.asynccontextmanager
async def started(
    node: contextlib.AbstractContextManager[processes.Node], version: str = "v1"
) -> AsyncIterator[str]:
    """Run a node in a process of its own, and yield its URL once it lists a version."""
    running = await asyncio.to_thread(node.__enter__)
    try:
        async with asyncio.timeout(30):
            while version not in await asyncio.to_thread(listed, running.url):
                await asyncio.sleep(0.05)
        yield running.url
    finally:
        await asyncio.to_thread(node.__exit__, None, None, None)


@contextlib.asynccontextmanager
async def slow_middle(upstream: str, folder: Path) -> AsyncIterator[Middle]:
    """Run a middle of ours whose upload is slow."""
    bounds = Bounds(uploads=FairLimit.of(SLOW))
    async with Middle.running([upstream], folder, "127.0.0.1", 0, check_interval=1, bounds=bounds) as middle:
        yield middle


def origin_for(
    release: OldShardcast, payload: Path, folder: Path
) -> contextlib.AbstractContextManager[processes.Node]:
    """Return an origin of ours, as readers of an older release need it."""
    digest = "blake3" if release.one_client_at_a_time else "sha256"
    words = ("--broadcast", str(payload), "--shard-size", str(SHARD), "--upload-limit", f"{2 * SLOW}")
    return processes.origin(folder, *words, "--legacy-digest", digest)


async def wait_for_shards(url: str) -> None:
    """Wait until an old middle has all shards of the version, which it lists before that."""
    async with asyncio.timeout(60):
        for number in range(1, SHARDS + 1):
            paths = [f"/v1/shard_{number:0{digits}}.bin" for digits in (3, 5)]
            while not any([(await asyncio.to_thread(get, url, path))[0] == 200 for path in paths]):
                await asyncio.sleep(0.1)


async def old_client(release: OldShardcast, server: str, output: Path) -> bytes:
    """Return what a client of an older release downloads."""
    words = ("--servers", server, "--version", "v1", "--output-file", str(output))
    done = await asyncio.to_thread(release.client, *words)
    assert done.returncode == 0, done.stderr
    return output.read_bytes()


async def share(payload: Path, *clients: Sharer) -> int:
    """Let clients download at once, and return the bytes that they had from each other."""
    await asyncio.wait_for(asyncio.gather(*(client.download("v1") for client in clients)), 60)
    for client in clients:
        assert client.path.read_bytes() == payload.read_bytes()
    return sum(client.from_neighbours for client in clients)


async def test_clients_share_below_a_middle_of_an_old_origin(
    release: OldShardcast, payload: Path, tmp_path: Path
) -> None:
    release.broadcast(tmp_path / "origin", payload, shard_size=SHARD)
    async with (
        started(release.origin(tmp_path / "origin")) as origin,
        slow_middle(origin, tmp_path / "middle") as middle,
        sharer(origin, tmp_path / "alone") as alone,
        sharer(middle.url, tmp_path / "one") as one,
        sharer(middle.url, tmp_path / "two") as two,
    ):
        assert await share(payload, alone) == 0, "an old origin names no members"
        await until(lambda: middle.folders.manifest_of("v1"), 30)
        assert await share(payload, one, two) > SIZE // 4
        assert await old_client(release, middle.url, tmp_path / "old.bin") == payload.read_bytes()


async def test_clients_share_beside_an_old_middle_and_old_clients(
    release: OldShardcast, payload: Path, tmp_path: Path
) -> None:
    async with (
        started(origin_for(release, payload, tmp_path / "origin")) as origin,
        started(release.middle(origin, tmp_path / "old", check_interval=600)) as between,
        slow_middle(between, tmp_path / "middle") as middle,
        sharer([origin, between], tmp_path / "one") as one,
        sharer([middle.url, origin], tmp_path / "two") as two,
        sharer(between, tmp_path / "below") as below,
    ):
        await wait_for_shards(between)
        await until(lambda: middle.folders.manifest_of("v1"), 60)
        assert await share(payload, one, two, below) > 0
        for number, server in enumerate((origin, middle.url)):
            assert await old_client(release, server, tmp_path / f"old-{number}") == payload.read_bytes()
