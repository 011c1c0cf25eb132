"""Single answers for shards: when one is left, which connection is used again, and what is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from shardcast.errors import IntegrityError, NoServerReachable, ServerLacks, TransferFailed
from shardcast.nodes.client import Client
from shardcast.nodes.origin import Origin
from shardcast.peer import connecting
from shardcast.peer.requests import RangeRequest
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.transfer.limits import Limits
from shardcast.transfer.workers import Transfer
from tests.support import bad_answers as bad
from tests.support.bad_servers import BadServer, Behaviour, Exchange, dead_address
from tests.support.published import Published, publish, random_bytes, sha256

MB = 1_000_000
PIECE = 256 * 1024
SHARDS = "/v1/shard_*.bin"
SECOND = "/v1/shard_002.bin"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """3 MB in 3 shards."""
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(3 * MB), MB)


async def test_server_without_a_piece_in_time_is_abandoned(published: Published, tmp_path: Path) -> None:
    """Bytes come all the time, and a piece of them would take twice the time-out."""
    with BadServer(published.data_dir).set(SHARDS, bad.throttled(PIECE)) as slow:
        async with Client([slow.url], limits=Limits(timeout=0.5, attempts=1, at_once=1)) as client:
            with pytest.raises(TransferFailed, match=r"no piece within 0\.5 s"):
                await client.download("v1", tmp_path / "got")
        assert slow.sent_bytes(SHARDS) < PIECE


async def test_server_that_never_answers_is_abandoned_when_another_serves(
    published: Published, tmp_path: Path
) -> None:
    """Nothing of its ranges can be taken over, for none has begun."""
    with (
        BadServer(published.data_dir).set(SHARDS, bad.silent()) as silent,
        BadServer(published.data_dir) as good,
    ):
        limits = Limits(stall=0.3, timeout=20, at_once=3)
        async with Client([silent.url, good.url], limits=limits) as client:
            release = await client.download("v1", tmp_path / "got")
        assert silent.requested(SHARDS) >= 1
    assert sha256(release.path) == published.sha256
    assert release.seconds < 10, "it waited for the silent server's time-out"


class FirstOfAll(Random):
    """Chooses the first of what it may choose."""

    def random(self) -> float:
        return 0.0


async def test_silent_server_is_abandoned_before_the_first_byte(tmp_path: Path) -> None:
    """With a single shard there is no other answer that would tell that the servers are there."""
    small = publish(tmp_path / "data", random_bytes(100_000), MB)
    live = LiveManifest.of(small.manifest)
    with (
        BadServer(small.data_dir).set(SHARDS, bad.silent()) as silent,
        BadServer(small.data_dir) as good,
        contextlib.closing(OutputFile(tmp_path / "got", live)) as filling,
    ):
        async with open_session() as session:
            peers = [Peer(silent.url, session), Peer(good.url, session)]
            limits = Limits(stall=0.2, timeout=20)
            await asyncio.wait_for(
                Transfer(live, peers, filling, limits=limits, random=FirstOfAll()).run(), 15
            )
        assert silent.requested(SHARDS) == 1
    assert sha256(tmp_path / "got") == small.sha256


async def test_missing_shard_is_not_counted_as_failure(published: Published, tmp_path: Path) -> None:
    """It may have all the others, and would be left alone for a second after each, on probation."""
    live = LiveManifest.of(published.manifest)
    with (
        BadServer(published.data_dir).set(SHARDS, bad.error(404)) as lacking,
        BadServer(published.data_dir) as good,
        contextlib.closing(OutputFile(tmp_path / "got", live)) as filling,
    ):
        async with open_session() as session:
            peers = [Peer(lacking.url, session), Peer(good.url, session)]
            transfer = Transfer(live, peers, filling, random=FirstOfAll())
            await transfer.run()
        assert lacking.requested(SHARDS) > 0
    assert transfer.progress.servers[lacking.url].failures == 0
    assert sha256(tmp_path / "got") == published.sha256


async def test_connection_with_unread_bytes_is_not_reused(published: Published, tmp_path: Path) -> None:
    """A server that ignores Range sends more than is wanted of each shard; what is left unread on the
    connection is not taken for the next answer, and the server isn't blamed for it."""
    damaged = bytearray(published.payload)
    for shard in range(3):
        damaged[shard * MB + PIECE] ^= 1  # of each shard, only the second piece is missing
    output = tmp_path / "got"
    output.write_bytes(damaged)
    with BadServer(published.data_dir).set(SHARDS, bad.ignores_range()) as server:
        async with Client([server.url], limits=Limits(attempts=1, at_once=1)) as client:
            release = await client.download("v1", output)
        assert server.requested(SHARDS) == 3
    assert sum(release.received.values()) == 3 * PIECE
    assert sha256(output) == published.sha256


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """A server that lets nobody in: its queue of connections is full, and new ones get no answer."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())
        yield "http://{}:{}".format(*listener.getsockname())


async def test_connecting_times_out(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT", 0.2)
    live = LiveManifest.of(published.manifest)
    filling = OutputFile(tmp_path / "got", live)
    begun = time.monotonic()
    with deaf() as url, contextlib.closing(filling):
        async with open_session() as session:
            limits = Limits(unreachable_at_start=0.3, timeout=20)
            transfer = Transfer(live, [Peer(url, session)], filling, limits=limits)
            with pytest.raises(NoServerReachable, match=r"no answer within 0\.2 s"):
                await transfer.run()
    assert time.monotonic() - begun < 10


async def test_node_with_other_digest_for_the_number_sends_nothing(
    published: Published, tmp_path: Path
) -> None:
    """A downloader asks for what its manifest says (If-Match), so that no wrong byte travels."""
    other = publish(tmp_path / "data", random_bytes(3 * MB, seed=2), MB)
    live = LiveManifest.of(published.manifest)
    with contextlib.closing(OutputFile(tmp_path / "got", live)) as filling:
        landing = await filling.landing(live.shards[0])
        async with Origin.running(other.data_dir, "127.0.0.1", 0) as origin, open_session() as session:
            peer, order = Peer(origin.url, session), RangeRequest(0, MB)
            assert (await peer.manifest("v1")) == other.manifest  # it knows now that this is a node
            with pytest.raises(ServerLacks, match="412"):
                await asyncio.wait_for(peer.receive("v1", landing, order), 20)
        landing.close()
    assert order.received == 0


async def test_connection_closed_while_idle_is_not_counted_as_failure(
    published: Published, tmp_path: Path
) -> None:
    """It closes each after one answer, and doesn't say so."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(exchange.right_answer())
        exchange.keeps_open = False

    live = LiveManifest.of(published.manifest)
    with (
        BadServer(published.data_dir).set(SHARDS, behave) as server,
        contextlib.closing(OutputFile(tmp_path / "got", live)) as filling,
    ):
        async with open_session() as session:
            peer = Peer(server.url, session)
            for shard in live.shards:
                landing = await filling.landing(shard)
                await peer.receive("v1", landing, RangeRequest(0, MB))
                assert landing.reach(0) == MB
                landing.close()
    assert server.requested(SHARDS) == len(live.shards)


async def test_wrong_piece_fails_the_answer_after_right_pieces(published: Published, tmp_path: Path) -> None:
    """A liar that sends some right pieces first would be asked again and again."""
    with BadServer(published.data_dir).set(SECOND, bad.flipped(PIECE)) as liar:
        async with Client([liar.url], limits=Limits(attempts=1)) as client:
            with pytest.raises(IntegrityError, match="shard 2"):
                await client.download("v1", tmp_path / "got")
        assert liar.requested(SECOND) == 1


async def test_dead_server_does_not_use_up_time_of_the_others(published: Published, tmp_path: Path) -> None:
    with dead_address() as dead, BadServer(published.data_dir) as good:
        limits = Limits(unreachable_at_start=0.0, unreachable_once_begun=0.0)
        live = LiveManifest.of(published.manifest)
        with contextlib.closing(OutputFile(tmp_path / "got", live)) as filling:
            async with open_session() as session:
                peers = [Peer(url, session) for url in (f"http://{dead}", good.url)]
                await asyncio.wait_for(Transfer(live, peers, filling, limits=limits).run(), 20)
    assert sha256(tmp_path / "got") == published.sha256


def part_of_what_was_asked() -> Behaviour:
    """Half of the range, and a Content-Range that says so."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer()
        half = part.body[: len(part.body) // 2]
        if part.status != 206:
            await exchange.answer(part)
            return
        said = f"bytes {part.start}-{part.start + len(half) - 1}/{part.total}"
        await exchange.start(206, len(half), {"Content-Range": said})
        await exchange.body(half)

    return behave


async def test_answer_shorter_than_the_range_is_refused(published: Published, tmp_path: Path) -> None:
    with BadServer(published.data_dir) as server:
        server.set(SECOND, bad.first(bad.cut(PIECE), then=part_of_what_was_asked()))
        async with Client([server.url], limits=Limits(attempts=1)) as client:
            with pytest.raises(TransferFailed, match="were asked for, and it says bytes"):
                await client.download("v1", tmp_path / "got")


def closed_after_each() -> Behaviour:
    """The right answer on a connection that may be kept, and is closed all the same, as idle ones are."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(exchange.right_answer())
        exchange.close()

    return behave


async def test_closed_keep_alive_connection_costs_no_attempt(published: Published, tmp_path: Path) -> None:
    with BadServer(published.data_dir).set(SHARDS, closed_after_each()) as server:
        async with Client([server.url], limits=Limits(attempts=1, at_once=1)) as client:
            await client.download("v1", tmp_path / "got")
        assert server.requested(SHARDS) == 3
    assert sha256(tmp_path / "got") == published.sha256


async def test_whole_buffered_pieces_are_kept_when_connection_breaks(tmp_path: Path) -> None:
    """Where bytes come fast, more than one piece waits to be verified."""
    large = publish(tmp_path / "data", random_bytes(4 * MB), 4 * MB)
    asked: list[str] = []

    async def noted(exchange: Exchange) -> None:
        asked.append(exchange.headers.get("range", "all"))
        await (bad.cut(1_500_000) if len(asked) == 1 else bad.good())(exchange)

    with BadServer(large.data_dir).set("/v1/shard_001.bin", noted) as server:
        async with Client([server.url], limits=Limits(at_once=1)) as client:
            await client.download("v1", tmp_path / "got")
    assert asked == ["all", f"bytes={1_500_000 // PIECE * PIECE}-{4 * MB - 1}"]
