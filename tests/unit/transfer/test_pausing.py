"""A transfer whose pieces come by another way for a while, and from its servers before and after that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shardcast.errors import LocalDiskError
from shardcast.fair_limit import FairLimit
from shardcast.nodes.origin import Origin
from shardcast.nodes.status import describe_transfer
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.protocol.manifest import Manifest
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.transfer.limits import Limits, NeighbourProgress
from shardcast.transfer.workers import Transfer
from tests.support.payloads import PIECE, manifest
from tests.support.published import publish, random_bytes

SHARD = 1 << 20
DATA = random_bytes(6 * SHARD + 17)


async def land_first_pieces(transfer: Transfer, data: bytes) -> int:
    """Land the first piece of each open shard, as a neighbour's, and return the bytes."""
    landed = 0
    for landing in transfer.open_landings:
        piece = data[landing.shard.offset : landing.shard.end][: landing.piece_size]
        landing.land_now(0, piece)
        landed += len(piece)
        await transfer.commit_if_whole(landing.shard.number)
    return landed


async def test_rates_count_what_comes_by_another_way(tmp_path: Path) -> None:
    published = await asyncio.to_thread(publish, tmp_path / "data", DATA, SHARD)
    async with (
        Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin,
        open_session() as session,
        asyncio.timeout(20),
    ):
        output = OutputFile(tmp_path / "out", LiveManifest.of(published.manifest))
        transfer = Transfer(LiveManifest.of(published.manifest), [Peer(origin.url, session)], output)
        transfer.pause()
        running = asyncio.ensure_future(transfer.run())
        received = 0
        transfer.neighbours = lambda: NeighbourProgress(1, 2 * received)
        while not (told := describe_transfer(transfer))["rate"]:
            transfer.count(origin.url, 1000)
            received += 1000
            await asyncio.sleep(0.01)
        from_origin = told["servers"][origin.url]
        assert from_origin > 0
        assert told["rate"] == pytest.approx(3 * from_origin, rel=0.01)
        running.cancel()
        await asyncio.wait([running])
        output.close()


async def test_paused_transfer_asks_for_nothing_and_resumes_with_what_is_missing(tmp_path: Path) -> None:
    published = await asyncio.to_thread(publish, tmp_path / "data", DATA, SHARD)
    async with (
        Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin,
        open_session() as session,
        asyncio.timeout(20),
    ):
        output = OutputFile(tmp_path / "out", LiveManifest.of(published.manifest))
        transfer = Transfer(LiveManifest.of(published.manifest), [Peer(origin.url, session)], output)
        transfer.pause()
        running = asyncio.ensure_future(transfer.run())
        while len(transfer.open_landings) < 7:
            await asyncio.sleep(0)
        landed = await land_first_pieces(transfer, DATA)
        assert transfer.progress.done == landed
        assert transfer.received == 0

        transfer.resume()
        await running
        output.close()
    assert (tmp_path / "out").read_bytes() == DATA
    assert transfer.received == len(DATA) - landed


async def test_answer_under_way_ends_with_its_present_piece(tmp_path: Path) -> None:
    data = random_bytes(8 << 20)
    published = await asyncio.to_thread(publish, tmp_path / "data", data, 8 << 20)
    async with (
        Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin,
        open_session(downloads=FairLimit.of(20_000_000)) as session,
        asyncio.timeout(20),
    ):
        output = OutputFile(tmp_path / "out", LiveManifest.of(published.manifest))
        transfer = Transfer(LiveManifest.of(published.manifest), [Peer(origin.url, session)], output)
        running = asyncio.ensure_future(transfer.run())
        while not transfer.received:
            await asyncio.sleep(0)
        transfer.pause()
        while transfer.progress.servers[origin.url].under_way:
            await asyncio.sleep(0.001)
        at_rest = transfer.progress.done
        assert at_rest < len(data)
        assert not running.done()

        transfer.resume()
        await running
        output.close()
    assert (tmp_path / "out").read_bytes() == data


class SlowOutput(OutputFile):
    """An output that takes its time to keep a shard."""

    committing = 0
    kept_before_complete: bool | None = None
    error: LocalDiskError | None = None

    async def commit_shard(self, landing: Landing) -> None:
        self.committing += 1
        await asyncio.sleep(0.05)
        self.committing -= 1
        if self.error:
            raise self.error

    async def complete(self, manifest: Manifest) -> None:
        self.kept_before_complete = not self.committing
        await super().complete(manifest)


async def land_all(transfer: Transfer, data: bytes) -> None:
    """Land all pieces of the open shards, as neighbours'."""
    for landing in transfer.open_landings:
        landing.land_now(0, data[landing.shard.offset : landing.shard.end])
    await asyncio.gather(*map(transfer.commit_if_whole, range(1, 8)))


async def test_version_is_complete_only_after_shards_that_came_by_another_way_are_kept(
    tmp_path: Path,
) -> None:
    described = (await asyncio.to_thread(publish, tmp_path / "data", DATA, SHARD)).manifest
    output = SlowOutput(tmp_path / "out", LiveManifest.of(described))
    transfer = Transfer(LiveManifest.of(described), [], output)
    transfer.pause()
    async with asyncio.timeout(20):
        running = asyncio.ensure_future(transfer.run())
        while len(transfer.open_landings) < 7:
            await asyncio.sleep(0)
        await asyncio.gather(land_all(transfer, DATA), running)
    output.close()
    assert output.kept_before_complete


async def test_failure_to_keep_a_shard_that_came_by_another_way_fails_the_transfer(tmp_path: Path) -> None:
    described = (await asyncio.to_thread(publish, tmp_path / "data", DATA, SHARD)).manifest
    output = SlowOutput(tmp_path / "out", LiveManifest.of(described))
    output.error = LocalDiskError("the disk is gone")
    transfer = Transfer(LiveManifest.of(described), [], output)
    transfer.pause()
    async with asyncio.timeout(20):
        running = asyncio.ensure_future(transfer.run())
        while len(transfer.open_landings) < 7:
            await asyncio.sleep(0)
        await land_all(transfer, DATA)
        with pytest.raises(LocalDiskError, match="gone"):
            await running
    output.close()


async def test_shard_that_half_of_the_look_ahead_waits_for_is_overdue(tmp_path: Path) -> None:
    data = random_bytes(12 * PIECE)
    live = LiveManifest.of(manifest(data, shard_size=2 * PIECE))
    output = OutputFile(tmp_path / "out", live)
    transfer = Transfer(live, [], output, limits=Limits(look_ahead=4))
    transfer.pause()
    running = asyncio.ensure_future(transfer.run())
    async with asyncio.timeout(20):
        await transfer.wait_open(4)
        assert transfer.overdue_shard == 1
        for number in range(1, 7):
            await transfer.wait_open(number)
            landing = next(one for one in transfer.open_landings if one.shard.number == number)
            landing.land_now(0, data[landing.shard.offset : landing.shard.end])
            await transfer.commit_if_whole(number)
            while not transfer.is_closed(number):
                await asyncio.sleep(0)
            if number >= 4:
                assert transfer.overdue_shard is None
        await running
    output.close()
    assert (tmp_path / "out").read_bytes() == data
