"""A crowd of sharing clients in one process; some lie, die and wander, while their server's clock jumps.

``SHARDCAST_SWARM_NODES`` says how many; ``make soak`` runs a hundred, which take half a minute of CPU.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import pytest

from shardcast.nodes import swarm_server
from shardcast.server.swarm_tracker import SwarmTracker
from shardcast.swarm.links import GivenPiece
from tests.support.published import Published, publish, random_bytes
from tests.support.sharing import Sharer, sharer, slow_origin, until

NODES = int(os.environ.get("SHARDCAST_SWARM_NODES", "0"))
MIB = 1 << 20
DAY = 86_400.0


class JumpingClock:
    """A wall clock that is set to another day now and then."""

    def __init__(self) -> None:
        self._offset = 0.0

    def __call__(self) -> float:
        return time.time() + self._offset

    async def jump(self, random: Random) -> None:
        """Jump about twice a second; for ever."""
        while True:
            await asyncio.sleep(0.5)
            self._offset = random.uniform(-DAY, DAY)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> JumpingClock:
    """The clock by which the origin signs tickets."""
    clock = JumpingClock()
    monkeypatch.setattr(swarm_server, "SwarmTracker", partial(SwarmTracker, wall_clock=clock))
    return clock


@asynccontextmanager
async def liar(url: str, folder: Path, published: Published) -> AsyncIterator[None]:
    """Run a client that has the payload, and gives others zeros."""
    garbage = folder / "garbage"
    folder.mkdir()
    garbage.write_bytes(bytes(len(published.payload)))
    with garbage.open("rb", buffering=0) as file:

        def find(shard: int, start: int, length: int) -> GivenPiece:
            return GivenPiece(file, start, length)

        async with sharer(url, folder / "client") as client:
            await client.have(published.payload)
            sharing = client.client._downloads.sharing
            assert sharing
            for shared, _ in sharing.shared:
                shared.pieces.find = find  # type: ignore[method-assign]
            yield


async def leave_half_way(url: str, folder: Path) -> None:
    """Run a client that ends amid its download."""
    async with sharer(url, folder) as client:
        downloading = asyncio.ensure_future(client.download())
        await until(lambda: downloading.done() or _done(client) > 0, 60)
        downloading.cancel()
        await asyncio.wait([downloading])


async def wander(url: str, folder: Path) -> bytes:
    """Run a client that leaves amid its download and comes back as another member, and return the payload."""
    await leave_half_way(url, folder)
    async with sharer(url, folder) as client:
        await client.download()
        return client.path.read_bytes()


def _done(client: Sharer) -> int:
    """Return the bytes that a client has."""
    return client.transfers[-1].progress.done if client.transfers else 0


@pytest.mark.skipif(not NODES, reason="part of make soak; SHARDCAST_SWARM_NODES=12 runs a small crowd")
async def test_honest_clients_of_a_faulty_crowd_get_every_byte(tmp_path: Path, clock: JumpingClock) -> None:
    published = await asyncio.to_thread(publish, tmp_path / "origin", random_bytes(MIB + 17), MIB // 2)
    few = max(1, NODES // 10)
    async with slow_origin(published.data_dir, MIB) as origin, AsyncExitStack() as stack:
        jumping = asyncio.ensure_future(clock.jump(Random(1)))
        stack.callback(jumping.cancel)
        for n in range(few):
            await stack.enter_async_context(liar(origin.url, tmp_path / f"liar {n}", published))
        honest = [
            await stack.enter_async_context(sharer(origin.url, tmp_path / f"client {n}"))
            for n in range(NODES - 3 * few)
        ]
        async with asyncio.timeout(150), asyncio.TaskGroup() as group:
            wanderers = [
                group.create_task(wander(origin.url, tmp_path / f"wanderer {n}")) for n in range(few)
            ]
            for n in range(few):
                group.create_task(leave_half_way(origin.url, tmp_path / f"killed {n}"))
            for one in honest:
                group.create_task(one.download())
        assert all(one.path.read_bytes() == published.payload for one in honest)
        assert all(task.result() == published.payload for task in wanderers)
        assert sum(one.from_neighbours for one in honest) > 0
        assert not jumping.done()
