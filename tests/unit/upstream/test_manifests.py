"""Manifests from servers that lack them, fall silent or can't be reached: what is taken for an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shardcast.constants import ORIGIN_SILENT
from shardcast.errors import ShardcastError, TransferFailed, VersionAborted
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.protocol.distribution import Listing
from shardcast.store.live_manifest import LiveManifest
from shardcast.upstream.manifests import descriptions_of, read_live
from tests.support import bad_answers as bad
from tests.support import payloads
from tests.support.bad_servers import BadServer, Behaviour, Exchange, dead_address

MANIFEST = "/v1/manifest.jsonl"


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 1000 + 5 * ORIGIN_SILENT, "it goes on for ever"
        await asyncio.sleep(0)


@asynccontextmanager
async def peers_of(*urls: str) -> AsyncIterator[list[Peer]]:
    async with open_session() as session:
        yield [Peer(url, session) for url in urls]


async def outcome(peers: Sequence[Peer], time: Time) -> ShardcastError | None:
    """Read the manifest of an open version from these servers, and return why that ended."""
    live = LiveManifest("v1")

    async def take(lines: bytes) -> None:
        live.add(lines)

    await asyncio.wait_for(read_live(live, peers, take, clock=time.clock, sleep=time.sleep), 60)
    return live.error


def nothing_new(lines: bytes = b"") -> Behaviour:
    """A manifest that ends before its closing line."""

    async def behave(exchange: Exchange) -> None:
        await exchange.start(200, len(lines), {"Content-Type": "application/x-ndjson"})
        await exchange.body(lines)

    return behave


async def test_version_is_not_aborted_while_a_server_is_unreachable(tmp_path: Path) -> None:
    """A 404 of one server says nothing while another, perhaps the origin, is only out of reach."""
    time = Time()
    with BadServer(tmp_path).set(MANIFEST, bad.error(404)) as lacks, dead_address() as dead:
        async with peers_of(lacks.url, f"http://{dead}") as peers:
            error = await outcome(peers, time)
    assert type(error) is TransferFailed, error
    assert "is stalled" in str(error)
    assert time.now > 1000 + ORIGIN_SILENT


async def test_version_is_not_aborted_while_a_server_answers_without_news(tmp_path: Path) -> None:
    time = Time()
    with (
        BadServer(tmp_path).set(MANIFEST, bad.error(404)) as lacks,
        BadServer(tmp_path).set(MANIFEST, nothing_new()) as waits,
    ):
        async with peers_of(lacks.url, waits.url) as peers:
            error = await outcome(peers, time)
    assert not isinstance(error, VersionAborted)
    assert waits.requested(MANIFEST) > 3


async def test_version_missing_on_all_servers_is_aborted_at_once(tmp_path: Path) -> None:
    time = Time()
    with (
        BadServer(tmp_path).set(MANIFEST, bad.error(404)) as one,
        BadServer(tmp_path).set(MANIFEST, bad.error(404)) as other,
    ):
        async with peers_of(one.url, other.url) as peers:
            assert isinstance(await outcome(peers, time), VersionAborted)
    assert time.now == 1000


async def test_empty_answers_do_not_prevent_stall(tmp_path: Path) -> None:
    time = Time()
    with BadServer(tmp_path).set(MANIFEST, nothing_new()) as server:
        async with peers_of(server.url) as peers:
            error = await outcome(peers, time)
    assert type(error) is TransferFailed
    assert "is stalled" in str(error)
    assert ORIGIN_SILENT < time.now - 1000 < 2 * ORIGIN_SILENT


async def test_missing_shard_is_not_the_end_while_other_server_is_silent(
    tmp_path: Path,
) -> None:
    """Where a list has no count of shards, the first one that all servers lack is the end. What one lacks
    while another doesn't answer is not: the payload would be fetched from both only to be found too short."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "shard_001.bin").write_bytes(b"the first of two")
    with (
        BadServer(tmp_path).set(MANIFEST, bad.error(404)) as lacks,
        BadServer(tmp_path).set("*", bad.closed()).set(MANIFEST, bad.error(404)) as broken,
    ):
        async with peers_of(lacks.url, broken.url) as peers:
            found = [one async for one in descriptions_of(Listing("v1", "ab" * 32, None), peers)]
    assert [one.peers for one in found] == [[peers[0]]], "described by both together"


MADE = payloads.manifest(payloads.random_bytes(3 * payloads.PIECE))
SHA256 = MADE.digests["sha256"]


@pytest.mark.parametrize(
    ("listing", "origin", "what"),
    [
        (Listing("v1", SHA256, len(MADE.shards)), "ab" * 16, "of another line"),
        (Listing("v1", "cd" * 32, len(MADE.shards)), None, "another digest"),
        (Listing("v1", SHA256, len(MADE.shards) + 1), None, "another count of shards"),
        (
            Listing("v1", SHA256, len(MADE.shards), "ef" * 32),
            None,
            "not the one that the deciding server has",
        ),
    ],
    ids=["line", "digest", "count", "manifest"],
)
async def test_manifest_not_matching_the_list_is_refused(
    listing: Listing, origin: str | None, what: str, tmp_path: Path
) -> None:
    with BadServer(tmp_path).set(MANIFEST, nothing_new(MADE.raw)) as server:
        async with peers_of(server.url) as peers:
            with pytest.raises(TransferFailed, match=what):
                [one async for one in descriptions_of(listing, peers, origin)]
            right = Listing("v1", SHA256, len(MADE.shards), MADE.identity)
            (found,) = [one async for one in descriptions_of(right, peers, payloads.ORIGIN)]
    assert found.manifest == MADE
