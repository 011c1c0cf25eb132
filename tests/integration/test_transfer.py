"""The engine in front of real servers on real ports: it shares the load, leaves who fails, ends in time.

Servers answer right unless a test says otherwise (tests/support/bad_servers.py), and count what they are
asked and what they send.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import shutil
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from shardcast.errors import IntegrityError, NoServerReachable, ShardcastError, TransferFailed
from shardcast.nodes.client import Client, Release
from shardcast.nodes.origin import Origin
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.protocol.manifest import Manifest, Shard, build_manifest
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.transfer.limits import Limits
from shardcast.transfer.workers import Transfer
from tests.support import bad_answers as bad
from tests.support import processes
from tests.support.bad_servers import BadServer, Behaviour, Exchange, dead_address
from tests.support.published import Published, publish, random_bytes, sha256

MB = 1_000_000
PIECE = 256 * 1024
SHARDS = "/v1/shard_*.bin"
SECOND = "/v1/shard_002.bin"
BOUND = 60.0  # whatever happens here, it has ended by then

#: Bytes that one request can have on the way, between a server that counts them as sent and a piece that
#: landed: a buffer that fills, one that is verified, what was read ahead, and what the kernel holds.
ON_THE_WAY = 6 * MB


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """12 MB in 12 shards."""
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(12 * MB), MB)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output alone in its folder, so that whatever is left behind shows."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "got.bin"


@contextlib.contextmanager
def servers(published: Published, *behaviours: Behaviour) -> Iterator[list[BadServer]]:
    """A server for each behaviour of its shards."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(BadServer(published.data_dir)).set(SHARDS, behaviour)
            for behaviour in behaviours
        ]


async def download(
    output: Path,
    *from_servers: BadServer | str,
    limits: Limits | None = None,
    version: str = "v1",
    watch: Callable[[Transfer], None] | None = None,
) -> Release:
    """What a client does, within this file's bound."""
    urls = [one if isinstance(one, str) else one.url for one in from_servers]
    async with Client(urls, limits=limits) as client:
        return await asyncio.wait_for(client.download(version, output, watch), BOUND)


@dataclass
class Disk:
    """An output whose landings a test can see and slow down."""

    filling: OutputFile
    landings: list[Landing] = field(default_factory=list)
    most_open: int = 0
    before_landing: Callable[[Shard], float] = lambda shard: 0.0
    seconds_a_write: float = 0.0
    waited_for: list[Shard] = field(default_factory=list)

    async def landing(self, shard: Shard) -> Landing:
        await asyncio.sleep(self.before_landing(shard))
        landing = await self.filling.landing(shard)
        land = landing.land_in_thread

        def slowly(start: int, data: memoryview) -> None:
            time.sleep(self.seconds_a_write)
            land(start, data)

        landing.land_in_thread = slowly  # type: ignore[method-assign, assignment]
        self.landings.append(landing)
        self.most_open = max(self.most_open, self.open)
        return landing

    async def next_wanted(self) -> Shard:
        return self.waited_for.pop() if self.waited_for else await self.filling.next_wanted()

    async def commit_shard(self, landing: Landing) -> None:
        await self.filling.commit_shard(landing)

    async def complete(self, manifest: Manifest) -> None:
        await self.filling.complete(manifest)

    @property
    def open(self) -> int:
        """Landings that are open now."""
        return sum(one.descriptor >= 0 for one in self.landings)


@contextlib.asynccontextmanager
async def transfer(
    manifest: Manifest, output: Path, *urls: str, limits: Limits | None = None, seed: int = 1
) -> AsyncIterator[tuple[Transfer, Disk]]:
    """A transfer of what is known already, for tests that look inside."""
    limits = limits or Limits()
    filling = OutputFile(output, LiveManifest.of(manifest))
    disk = Disk(filling)
    try:
        async with open_session(limits.timeout) as session:
            peers = [Peer(url, session, limits.timeout) for url in urls]
            yield Transfer(LiveManifest.of(manifest), peers, disk, limits=limits, random=Random(seed)), disk
    finally:
        filling.close()


def assert_right(output: Path, published: Published) -> None:
    assert sha256(output) == published.sha256
    assert [file.name for file in output.parent.iterdir()] == [output.name], "something was left behind"


def assert_nothing_final(output: Path) -> None:
    assert not output.exists(), "it failed, and yet the output has its final name"


def recorded(log: list[str], behaviour: Behaviour) -> Behaviour:
    """Behave so, and note the Range of each request."""

    async def behave(exchange: Exchange) -> None:
        log.append(exchange.headers.get("range", "all"))
        await behaviour(exchange)

    return behave


def held(until: Callable[[], bool]) -> Behaviour:
    """The right answer, once ``until()`` is true."""

    async def behave(exchange: Exchange) -> None:
        await wait_until(until, "what holds the answer back")
        await exchange.answer(exchange.right_answer())

    return behave


async def wait_until(condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:g} s in vain for {what}"
        await asyncio.sleep(0.01)


# Several servers ---------------------------------------------------------------------------------


async def test_several_servers_share_the_load(published: Published, output: Path) -> None:
    with servers(published, *(bad.throttled(2 * MB) for _ in range(3))) as three:
        release = await download(output, *three)
        sent = [server.sent_bytes(SHARDS) for server in three]
    assert_right(output, published)
    assert min(sent) >= 12 * MB / 6, f"one of three did next to nothing: {sent}"
    assert sum(sent) < 12 * MB * 1.1, f"bytes came twice: {sent}"
    assert sum(release.received.values()) < 12 * MB * 1.1
    assert release.seconds < 5.1, "no faster than from one of them"


async def test_faster_server_sends_more(published: Published, output: Path) -> None:
    with servers(published, bad.throttled(MB), bad.throttled(8 * MB)) as (slow, fast):
        release = await download(output, slow, fast, limits=Limits(at_once=4))
        sent = slow.sent_bytes(SHARDS), fast.sent_bytes(SHARDS)
    assert_right(output, published)
    assert sent[1] > 3 * sent[0], f"the server that is eight times as fast did not do much more: {sent}"
    assert release.seconds < 6


async def test_transfer_continues_when_a_server_dies(published: Published, output: Path) -> None:
    with contextlib.ExitStack() as dying, BadServer(published.data_dir) as stays:
        stays.set(SHARDS, bad.throttled(8 * MB))
        dies = dying.enter_context(BadServer(published.data_dir)).set(SHARDS, bad.throttled(8 * MB))
        got = asyncio.ensure_future(download(output, dies, stays))
        await wait_until(lambda: dies.sent_bytes(SHARDS) > MB, "the transfer to begin")
        await asyncio.to_thread(dying.close)
        await got
    assert_right(output, published)


async def test_dead_servers_do_not_delay_transfer(published: Published, output: Path) -> None:
    with dead_address() as one, dead_address() as two, BadServer(published.data_dir) as good:
        release = await download(output, f"http://{one}", f"http://{two}", good)
    assert_right(output, published)
    assert release.seconds < 5


async def test_server_lacking_shards_serves_the_others(
    published: Published, output: Path, tmp_path: Path
) -> None:
    shutil.copytree(published.data_dir, tmp_path / "half")
    for number in range(1, 12, 2):
        (tmp_path / "half" / "v1" / f"shard_{number:03}.bin").unlink()
    with BadServer(tmp_path / "half") as half, BadServer(published.data_dir) as whole:
        whole.set(SHARDS, bad.throttled(4 * MB))
        half.set(SHARDS, bad.throttled(4 * MB))
        await download(output, half, whole)
        sent = half.sent_bytes(SHARDS)
    assert_right(output, published)
    assert sent > 3 * MB, "404 for some shards cost it those that it has"


# Wrong bytes -------------------------------------------------------------------------------------


async def test_wrong_piece_is_fetched_from_another_server(published: Published, output: Path) -> None:
    with BadServer(published.data_dir) as wrong, BadServer(published.data_dir) as right:
        wrong.set(SECOND, bad.flipped(3 * PIECE))
        await download(output, wrong, right)
        assert wrong.requested(SECOND) <= 1, "it was asked again for what it sent wrong"
    assert_right(output, published)


async def test_lying_server_gets_fewer_requests(output: Path, tmp_path: Path) -> None:
    many = publish(tmp_path / "data", random_bytes(15 * MB), 100_000)  # 150 shards
    with servers(many, bad.flipped(0), bad.throttled(6 * MB)) as (liar, good):
        await download(output, liar, good, limits=Limits(at_once=4))
        lies, others = liar.requested(SHARDS), good.requested(SHARDS)
    assert_right(output, many)
    assert 0 < lies <= 10, f"it lied {lies} times, and was asked on and on"
    assert others >= 150


async def test_error_names_servers_and_shard_when_all_send_wrong_bytes(
    published: Published, output: Path
) -> None:
    with BadServer(published.data_dir) as one, BadServer(published.data_dir) as two:
        for server in (one, two):
            server.set(SECOND, bad.flipped(PIECE + 5))
        with pytest.raises(IntegrityError) as failure:
            await download(output, one, two, limits=Limits(attempts=3))
        assert any(server.url in str(failure.value) for server in (one, two))
        assert one.requested(SECOND) + two.requested(SECOND) <= 6, "asked in a loop"
        assert one.requested(SECOND) and two.requested(SECOND), "one of them was never asked"
    assert re.search(r"\bv1\b", str(failure.value))
    assert re.search(r"shard 2\b", str(failure.value))
    assert_nothing_final(output)


def other_pieces(published: Published, payload: bytes) -> Manifest:
    """A manifest that describes other bytes under the digest of the published ones."""
    from shardcast.digest import PieceDigests

    shards, true = [], published.manifest
    for shard in true.shards:
        pieces = PieceDigests(true.header.piece_size)
        part = payload[shard.offset : shard.end]
        pieces.update(part)
        shards.append(replace(shard, sha256=hashlib.sha256(part).hexdigest(), pieces=pieces.finish()))
    return build_manifest(true.header, shards, true.digests)


@pytest.fixture
def lying(published: Published, tmp_path: Path) -> Path:
    """A data directory whose manifest and shards agree, but not with the digest that is listed."""
    data_dir = tmp_path / "lying"
    shutil.copytree(published.data_dir, data_dir)
    payload = bytearray(published.payload)
    payload[5 * MB : 5 * MB + 10] = b"0123456789"
    manifest = other_pieces(published, bytes(payload))
    (data_dir / "v1" / "manifest.jsonl").write_bytes(manifest.raw)
    for shard in manifest.shards:
        (data_dir / "v1" / f"shard_{shard.number:03}.bin").write_bytes(payload[shard.offset : shard.end])
    return data_dir


async def test_lying_manifest_is_replaced_by_another_servers(
    lying: Path, published: Published, output: Path
) -> None:
    with BadServer(lying) as liar, BadServer(published.data_dir) as honest:
        await download(output, liar, honest)
        assert honest.sent_bytes(SHARDS) < 13 * MB
    assert_right(output, published)


async def test_output_stays_unnamed_when_every_manifest_lies(lying: Path, output: Path) -> None:
    with BadServer(lying) as liar:
        with pytest.raises(IntegrityError) as failure:
            await download(output, liar)
        assert liar.url in str(failure.value)
        assert liar.requested(SHARDS) <= 24
    assert re.search(r"\bv1\b", str(failure.value))
    assert_nothing_final(output)


# Servers that stop, and bounds -------------------------------------------------------------------


async def test_stalled_server_is_abandoned_when_another_serves(published: Published, output: Path) -> None:
    with servers(published, bad.stall(PIECE), bad.good()) as (stalls, _):
        release = await download(output, stalls, _, limits=Limits(stall=0.3, timeout=20))
        assert stalls.requested(SHARDS) <= 10
    assert_right(output, published)
    assert release.seconds < 6, "it waited for the stalled server's time-out"


async def test_only_server_that_stalls_is_abandoned_after_timeout(published: Published, output: Path) -> None:
    with servers(published, bad.stall(PIECE)) as (alone,):
        begun = time.monotonic()
        with pytest.raises(TransferFailed) as failure:
            await download(output, alone, limits=Limits(stall=0.1, timeout=0.5, attempts=2))
        took = time.monotonic() - begun
        assert alone.url in str(failure.value)
    assert re.search(r"v1 shard \d+", str(failure.value))
    assert 0.5 < took < 8
    assert_nothing_final(output)


async def test_trickling_bytes_do_not_count_as_progress(published: Published, output: Path) -> None:
    """One that sends a byte now and then never stalls by bytes, only by pieces."""
    with servers(published, bad.trickle(0.05)) as (drips,):
        with pytest.raises(TransferFailed):
            await download(output, drips, limits=Limits(timeout=0.7, attempts=1))
        assert drips.sent_bytes(SHARDS) < PIECE
    assert_nothing_final(output)


async def test_slow_disk_does_not_count_as_stalled_server(published: Published, output: Path) -> None:
    blamed = set()
    with servers(published, bad.good(), bad.good()) as two:
        urls = [one.url for one in two]
        limits = Limits(stall=1.0, at_once=4)
        async with transfer(published.manifest, output, *urls, limits=limits) as (slowly, disk):
            disk.seconds_a_write = 1.7
            running = asyncio.ensure_future(slowly.run())
            while not running.done():
                blamed |= {url for url, one in slowly.progress.servers.items() if one.failures}
                await asyncio.wait([running], timeout=0.02)
            await running
    assert_right(output, published)
    assert not blamed, "servers were left because the disk was slow"


async def test_unreachable_at_start_raises_within_budget(published: Published, output: Path) -> None:
    with dead_address() as dead:
        limits = Limits(unreachable_at_start=0.5, unreachable_once_begun=60)
        async with transfer(published.manifest, output, f"http://{dead}", limits=limits) as (vain, _):
            begun = time.monotonic()
            with pytest.raises(NoServerReachable, match=re.escape(dead)):
                await asyncio.wait_for(vain.run(), BOUND)
            took = time.monotonic() - begun
    assert 0.4 < took < 5
    assert_nothing_final(output)


async def test_started_transfer_waits_for_lost_server(published: Published, output: Path) -> None:
    limits = Limits(unreachable_at_start=0.1, unreachable_once_begun=20, at_once=2)
    with processes.reserved_port() as port:
        with contextlib.ExitStack() as first:
            server = first.enter_context(BadServer(published.data_dir, port=port))
            server.set(SHARDS, bad.throttled(4 * MB))
            got = asyncio.ensure_future(download(output, server, limits=limits))
            await wait_until(lambda: server.sent_bytes(SHARDS) > 3 * MB, "the transfer to begin")
            await asyncio.to_thread(first.close)
        done, _ = await asyncio.wait([got], timeout=1)
        assert not done, f"it gave up at once: {got.exception()}"
        with BadServer(published.data_dir, port=port):
            await got
    assert_right(output, published)


async def test_started_transfer_stops_waiting_after_budget(published: Published, output: Path) -> None:
    limits = Limits(unreachable_at_start=60, unreachable_once_begun=1.0, at_once=2)
    with contextlib.ExitStack() as only:
        server = only.enter_context(BadServer(published.data_dir)).set(SHARDS, bad.throttled(4 * MB))
        got = asyncio.ensure_future(download(output, server, limits=limits))
        await wait_until(lambda: server.sent_bytes(SHARDS) > 3 * MB, "the transfer to begin")
        await asyncio.to_thread(only.close)
        begun = time.monotonic()
    with pytest.raises(NoServerReachable, match=re.escape(server.url)):
        await got
    assert 0.8 < time.monotonic() - begun < 10
    assert_nothing_final(output)


@pytest.mark.parametrize("seed", range(4))
async def test_verifying_local_pieces_does_not_use_the_budget(
    seed: int, published: Published, output: Path
) -> None:
    """A long resume comes before the first request, and then the first server asked may be a dead one."""
    with dead_address() as dead, BadServer(published.data_dir) as good:
        limits = Limits(unreachable_at_start=0.3)
        urls = [f"http://{dead}", good.url]
        async with transfer(published.manifest, output, *urls, limits=limits, seed=seed) as (late, disk):
            disk.before_landing = lambda shard: 0.5 if shard.number == 1 else 0.0
            await asyncio.wait_for(late.run(), BOUND)
    assert_right(output, published)


async def test_attempts_at_a_shard_are_bounded(published: Published, output: Path) -> None:
    with BadServer(published.data_dir) as one, BadServer(published.data_dir) as two:
        for server in (one, two):
            server.set(SECOND, bad.error(500))
        with pytest.raises(TransferFailed) as failure:
            await download(output, one, two, limits=Limits(attempts=4))
        assert one.requested(SECOND) + two.requested(SECOND) == 4
        assert one.requested(SECOND) == two.requested(SECOND) == 2, "not over different servers"
    assert re.search(r"v1 shard 2\b", str(failure.value))
    assert any(server.url in str(failure.value) for server in (one, two))
    assert_nothing_final(output)


async def test_failing_shard_does_not_stop_the_others(published: Published, output: Path) -> None:
    """What came of the others is there for the next run."""
    with BadServer(published.data_dir) as server:
        server.set(SECOND, bad.error(500))
        with pytest.raises(TransferFailed):
            await download(output, server, limits=Limits(attempts=3))
        before = server.sent_bytes(SHARDS)
        server.set(SECOND, bad.good())
        await download(output, server)
        again = server.sent_bytes(SHARDS) - before
    assert_right(output, published)
    assert again < 5 * MB, f"{again} bytes again"


async def test_open_shards_never_exceed_the_look_ahead(published: Published, output: Path) -> None:
    with BadServer(published.data_dir) as server:
        limits = Limits(look_ahead=3)
        async with transfer(published.manifest, output, server.url, limits=limits) as (bounded, disk):
            server.set("/v1/shard_001.bin", held(lambda: disk.open >= 3))
            await asyncio.wait_for(bounded.run(), BOUND)
    assert_right(output, published)
    assert len(disk.landings) == 12
    # One more may be hashed, and not yet let go of.
    assert disk.most_open <= 4, "the whole digest would have to read what is no longer in memory"


async def test_concurrent_requests_never_exceed_the_limit(published: Published, output: Path) -> None:
    busy: dict[str, int] = defaultdict(int)

    async def counting(exchange: Exchange) -> None:
        busy["now"] += 1
        busy["most"] = max(busy["most"], busy["now"])
        try:
            await asyncio.sleep(0.02)
            await exchange.answer(exchange.right_answer())
        finally:
            busy["now"] -= 1

    with servers(published, counting, counting) as two:
        await download(output, *two, limits=Limits(at_once=3))
    assert_right(output, published)
    assert 2 <= busy["most"] <= 3


# The slowest server ------------------------------------------------------------------------------


async def test_tail_of_slow_server_is_stolen(output: Path, tmp_path: Path) -> None:
    few = publish(tmp_path / "data", random_bytes(16 * MB), 4 * MB)
    with servers(few, bad.throttled(MB / 4), bad.throttled(20 * MB)) as (slow, fast):
        release = await download(output, slow, fast)
        sent = slow.sent_bytes(SHARDS), fast.sent_bytes(SHARDS)
    assert_right(output, few)
    assert release.seconds < 8, "without the fast one taking it over the slow one needs half a minute"
    assert sent[0] < 2 * MB, f"the slow server was waited for: {sent}"
    assert sum(sent) < 16 * MB + 2 * ON_THE_WAY


async def test_slow_server_does_not_block_the_look_ahead(published: Published, output: Path) -> None:
    """Nothing new may start while shard 1 trickles in, so its rest is what the idle ones take over."""
    with servers(published, bad.throttled(50_000), bad.throttled(20 * MB)) as (slow, fast):
        release = await download(output, slow, fast, limits=Limits(look_ahead=3, at_once=4))
        assert slow.sent_bytes(SHARDS) < 2 * MB
    assert_right(output, published)
    assert release.seconds < 10, "the slow one alone needs 20 s for a single shard"


async def test_single_shard_is_split_among_servers(output: Path, tmp_path: Path) -> None:
    one = publish(tmp_path / "data", random_bytes(16 * MB), 50 * MB)
    with servers(one, bad.throttled(4 * MB), bad.throttled(4 * MB)) as two:
        await download(output, *two)
        sent = [server.sent_bytes(SHARDS) for server in two]
    assert_right(output, one)
    assert min(sent) > 3 * MB, f"one of two servers was left idle: {sent}"
    assert sum(sent) < 16 * MB + 2 * ON_THE_WAY


@pytest.mark.parametrize("read_along", [True, False])
async def test_shard_read_while_landing_arrives_in_order(
    read_along: bool, output: Path, tmp_path: Path
) -> None:
    """A second half of it would take from the rate at which its readers, further down, get its first."""
    one = publish(tmp_path / "data", random_bytes(8 * MB), 50 * MB)
    with servers(one, bad.throttled(6 * MB)) as (server,):
        async with transfer(one.manifest, output, server.url) as (under_way, disk):
            running = asyncio.ensure_future(under_way.run())
            with contextlib.ExitStack() as reader:
                while not disk.landings:
                    await asyncio.sleep(0.01)
                if read_along:
                    reader.enter_context(disk.landings[0].read_along())
                await asyncio.wait_for(running, BOUND)
        assert (server.requested(SHARDS) == 1) is read_along
    assert_right(output, one)


async def test_shards_out_of_order_do_not_block_transfer(published: Published, output: Path) -> None:
    """Somebody waits for shard 3; it and the first are here already, and the second hasn't begun."""
    missing = published.manifest.shards[1]
    damaged = bytearray(published.payload)
    damaged[missing.offset : missing.end] = bytes(missing.size)
    output.write_bytes(damaged)
    with servers(published, bad.good()) as (server,):
        async with transfer(published.manifest, output, server.url) as (under_way, disk):
            disk.waited_for = [published.manifest.shards[2]]
            await asyncio.wait_for(under_way.run(), BOUND)
        assert server.requested(SHARDS) == server.requested(SECOND)
    assert_right(output, published)


@pytest.mark.parametrize("moment", [0.3, 0.8, 1.3, 1.8, 2.3])
async def test_transfer_can_be_cancelled_at_any_moment(moment: float, output: Path, tmp_path: Path) -> None:
    """Without Range, and with ranges taken over and begun anew all the time."""
    few = publish(tmp_path / "data", random_bytes(8 * MB), 2 * MB)
    behaviours = (bad.first(bad.cut(2 * PIECE), then=bad.throttled(MB / 2)) for _ in range(3))
    with servers(few, *behaviours) as three:
        for server in three:
            server.ranges = False
        running = asyncio.ensure_future(download(output, *three, limits=Limits(timeout=3, stall=0.5)))
        await asyncio.wait([running], timeout=moment)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=5)
        assert done, "cancelled, and yet it goes on"
    assert running.cancelled()
    assert_nothing_final(output)


# Servers of other kinds --------------------------------------------------------------------------


@pytest.mark.parametrize("keep_alive", [True, False], ids=["http-1.1", "http-1.0"])
async def test_server_without_ranges_is_usable(keep_alive: bool, published: Published, output: Path) -> None:
    with BadServer(published.data_dir, ranges=False, keep_alive=keep_alive) as server:
        server.set(SECOND, bad.first(bad.cut(3 * PIECE)))
        await download(output, server)
        assert server.requested(SECOND) == 2
    assert_right(output, published)


@pytest.mark.parametrize("way", ["chunked", "redirected", "ignoring-range"])
async def test_unusual_but_valid_answer_is_accepted(way: str, published: Published, output: Path) -> None:
    with BadServer(published.data_dir) as right, BadServer(published.data_dir) as server:
        behaviour = {
            "chunked": bad.chunked(),
            "redirected": bad.redirect(right.url),
            "ignoring-range": bad.ignores_range(),
        }[way]
        server.set(SHARDS, behaviour)
        server.set(SECOND, bad.first(bad.cut(3 * PIECE), then=behaviour))
        await download(output, server)
    assert_right(output, published)


async def test_transfer_works_with_real_origins(published: Published, output: Path, tmp_path: Path) -> None:
    shutil.copytree(published.data_dir, tmp_path / "copy")
    async with (
        Origin.running(published.data_dir, "127.0.0.1", 0) as one,
        Origin.running(tmp_path / "copy", "127.0.0.1", 0) as two,
    ):
        release = await download(output, one.url, two.url)
    assert_right(output, published)
    assert all(release.received.values()), f"one of two did nothing: {release.received}"


async def test_pieces_before_broken_connection_are_kept(published: Published, output: Path) -> None:
    """Two of the four pieces came whole."""
    log: list[str] = []
    with BadServer(published.data_dir) as server:
        server.set(SECOND, recorded(log, bad.first(bad.cut(2 * PIECE + 1000))))
        await download(output, server)
    assert_right(output, published)
    assert log[0] == "all"
    assert log[1:] == [f"bytes={2 * PIECE}-{MB - 1}"]


# Going on ----------------------------------------------------------------------------------------


async def test_interrupted_transfer_resumes(output: Path, tmp_path: Path) -> None:
    large = publish(tmp_path / "data", random_bytes(40 * MB), 4 * MB)
    with servers(large, bad.throttled(16 * MB)) as (server,):
        first = asyncio.ensure_future(download(output, server, limits=Limits(at_once=2)))
        await wait_until(lambda: server.sent_bytes(SHARDS) > 20 * MB, "half of it")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert_nothing_final(output)
        await download(output, server, limits=Limits(at_once=2))
        sent = server.sent_bytes(SHARDS)
    assert_right(output, large)
    assert sent < 40 * MB + 2 * ON_THE_WAY, f"{sent - 40 * MB} bytes were fetched again"


async def test_complete_output_is_not_fetched_again(published: Published, output: Path) -> None:
    with BadServer(published.data_dir) as server:
        await download(output, server)
        once = server.requested(SHARDS)
        release = await download(output, server)
        assert server.requested(SHARDS) == once
    assert_right(output, published)
    assert sum(release.received.values()) == 0


async def test_damaged_output_is_repaired_by_pieces(published: Published, output: Path) -> None:
    with BadServer(published.data_dir) as server:
        await download(output, server)
        once = server.sent_bytes(SHARDS)
        with output.open("r+b") as file:
            file.seek(7 * MB + 10)
            file.write(b"damage")
        await download(output, server)
        again = server.sent_bytes(SHARDS) - once
    assert_right(output, published)
    assert 0 < again <= PIECE + 1000


async def test_next_version_fetches_only_changed_pieces(output: Path, tmp_path: Path) -> None:
    first = publish(tmp_path / "data", random_bytes(12 * MB), MB)
    changed = bytearray(first.payload)
    changed[3 * MB + 5 * 1000 : 3 * MB + 6 * 1000] = random_bytes(1000, seed=2)
    changed[9 * MB - 500 : 9 * MB + 500] = random_bytes(1000, seed=3)
    second = publish(tmp_path / "data", bytes(changed), MB)
    with BadServer(first.data_dir) as server:
        await download(output, server)
        assert_right(output, first)
        await download(output, server, version="v2")
        sent = server.sent_bytes("/v2/shard_*.bin")
    assert_right(output, second)
    assert 0 < sent < 3 * (PIECE + 1000), f"{sent} bytes for three pieces that changed"


async def test_partial_output_of_another_version_is_reused(output: Path, tmp_path: Path) -> None:
    first = publish(tmp_path / "data", random_bytes(12 * MB), MB)
    second = publish(tmp_path / "data", first.payload[: 10 * MB] + random_bytes(2 * MB, seed=2), MB)
    with servers(first, bad.throttled(12 * MB)) as (server,):
        unfinished = asyncio.ensure_future(download(output, server, limits=Limits(at_once=1)))
        await wait_until(lambda: server.sent_bytes(SHARDS) > 8 * MB, "most of it")
        unfinished.cancel()
        await asyncio.wait([unfinished])
        await download(output, server, version="v2")
        sent = server.sent_bytes("/v2/shard_*.bin")
    assert_right(output, second)
    assert sent < 4 * MB + ON_THE_WAY


async def test_two_clients_may_share_one_output(published: Published, output: Path) -> None:
    with servers(published, bad.throttled(12 * MB)) as (server,):
        await asyncio.gather(download(output, server), download(output, server))
    assert_right(output, published)


async def test_abandoned_temporary_files_are_reused_and_removed(published: Published, output: Path) -> None:
    """Two clients with one output were killed, and one comes back."""
    with servers(published, bad.throttled(6 * MB)) as (server,):
        two = [asyncio.ensure_future(download(output, server)) for _ in range(2)]
        await wait_until(lambda: len(list(output.parent.glob(".*.part*"))) >= 4, "both to begin")
        await wait_until(lambda: server.sent_bytes(SHARDS) > 6 * MB, "something to arrive")
        for one in two:
            one.cancel()
        await asyncio.wait(two)
        await download(output, server)
    assert_right(output, published)


async def test_ended_transfer_leaves_no_file_open(published: Published, output: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc/self/fd to see the open files")
    with servers(published, bad.throttled(8 * MB)) as (server,):
        for moment in (MB, 4 * MB):
            sent = server.sent_bytes(SHARDS)
            ended = asyncio.ensure_future(download(output, server))
            await wait_until(lambda: server.sent_bytes(SHARDS) > sent + moment, "some bytes")  # noqa: B023
            ended.cancel()
            await asyncio.wait([ended])
        server.set(SHARDS, bad.error(500))
        with pytest.raises(ShardcastError):
            await download(output, server, limits=Limits(attempts=2))
    await wait_until(lambda: open_outputs(output) == 0, "its files to be closed", timeout=2)


def open_outputs(output: Path) -> int:
    """How many descriptors of this process point into the output's folder."""
    count = 0
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(one.readlink()).startswith(str(output.parent))
    return count


# Shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "shard_size", "shards"),
    [
        pytest.param(0, MB, 1, id="empty"),
        pytest.param(1, MB, 1, id="one-byte"),
        pytest.param(3 * MB, MB, 3, id="whole-shards"),
        pytest.param(MB, MB, 1, id="one-whole-shard"),
        pytest.param(3 * MB + 1, MB, 4, id="one-byte-more"),
        pytest.param(4 * PIECE, 2 * PIECE, 2, id="whole-pieces"),
        pytest.param(1_234_567, 1_000, 1235, id="more-than-999-shards"),
    ],
)
async def test_payloads_of_every_shape_arrive(
    size: int, shard_size: int, shards: int, output: Path, tmp_path: Path
) -> None:
    payload = publish(tmp_path / "data", random_bytes(size), shard_size)
    assert len(payload.manifest.shards) == shards
    async with Origin.running(payload.data_dir, "127.0.0.1", 0) as origin:
        release = await download(output, origin.url)
    assert_right(output, payload)
    assert release.manifest.size == size


async def test_progress_only_grows_and_ends_complete(published: Published, output: Path) -> None:
    seen: list[tuple[int, int]] = []
    watched: list[Transfer] = []
    with servers(published, bad.throttled(4 * MB)) as (server,):
        limits = Limits(at_once=2)
        got = asyncio.ensure_future(download(output, server, limits=limits, watch=watched.append))
        while not got.done():
            if watched:
                now = watched[0].progress
                assert (now.size, now.shards) == (12 * MB, 12)
                seen.append((now.done, now.shards_done))
            await asyncio.wait([got], timeout=0.05)
        await got
    seen.append((watched[0].progress.done, watched[0].progress.shards_done))
    assert seen == sorted(seen)
    assert seen[-1] == (12 * MB, 12)
    assert len({done for done, _ in seen}) > 4, "it jumped"
