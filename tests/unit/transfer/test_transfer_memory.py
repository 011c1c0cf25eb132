"""A transfer's memory has a bound, whatever a server lists and however it sends."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shardcast.constants import TRANSFER_MEMORY
from shardcast.digest import piece_digest
from shardcast.errors import BadAnswer
from shardcast.nodes.offers import _DESCRIBED_AT_ONCE
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.protocol.manifest import Header, Shard, build_manifest
from shardcast.protocol.manifest_reader import MAX_MEMORY, ManifestError, ManifestReader
from shardcast.protocol.shard_table import ShardTable
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.transfer.limits import Limits
from shardcast.transfer.workers import Transfer
from tests.support import bad_answers as bad
from tests.support.bad_servers import BadServer, Exchange

MIB = 1 << 20
COUNT = 10_000  # shards of one byte; what a million take is a hundred times as much


def tiny_shards(count: int) -> list[bytes]:
    """The lines of a manifest of so many shards of one byte."""
    header = {
        "format": 1, "version": "v1", "origin": "a1", "name": "x", "kind": "file", "size": count,
        "shard_size": 1, "piece_size": 262144, "created": 1.0, "metadata": {},
    }  # fmt: skip
    shard = {"sha256": "ab" * 32, "blake3": b64encode(b"x" * 32).decode(), "size": 1}
    closing = {"complete": True, "size": count, "shards": count, "sha256": "cd" * 32}
    lines = [header, *({"shard": number, **shard} for number in range(1, count + 1)), closing]
    return [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines]


def test_shard_table_uses_few_bytes_per_shard() -> None:
    lines = tiny_shards(COUNT)
    raw = sum(map(len, lines))
    tracemalloc.start()
    try:
        reader = ManifestReader("v1")
        for line in lines:
            reader.feed(line)
        live = LiveManifest.of(reader.manifest())
        del reader
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(live.shards) == COUNT
    assert live.shards[-1] == replace(live.shards[0], number=COUNT, offset=COUNT - 1)
    assert kept < 1.3 * raw + 110 * COUNT
    assert most < 1.5 * raw + 130 * COUNT, "there were copies"


def test_manifest_over_memory_budget_is_refused() -> None:
    reader, lines = ManifestReader("v1", memory=MIB), tiny_shards(COUNT)
    with pytest.raises(ManifestError, match="more than 1048576 bytes of memory; SHARDCAST_TRANSFER_MEMORY"):
        for line in lines:
            reader.feed(line)
    assert 3000 < len(reader.shards) < 6000


def test_shard_table_is_a_sequence_of_shards() -> None:
    random, shards, offset = Random(1), list[Shard](), 0
    for number in range(1, 40):
        size = random.randrange(1, 1000)
        pieces = random.randbytes(32 * random.randrange(4))
        shards.append(Shard(number, offset, size, random.randbytes(32).hex(), pieces))
        offset += size
    table = ShardTable(shards)
    assert table == shards and table == tuple(shards) and ShardTable() == []
    assert table != shards[:-1] and table != [*shards[:-1], replace(shards[-1], sha256="00" * 32)]
    assert list(table) == shards and len(table) == 39 and table.end == offset
    assert table[0] == shards[0] and table[-1] == shards[-1] and table[5:9] == tuple(shards[5:9])
    assert list(reversed(table)) == shards[::-1] and shards[7] in table
    for beyond in (39, -40):
        with pytest.raises(IndexError):
            table[beyond]
    assert not ShardTable() and ShardTable().end == 0


def test_shard_is_visible_in_table_only_when_fully_added() -> None:
    """Other threads read while one adds."""
    table, seen = ShardTable(), list[int]()

    class Seen(SimpleNamespace):
        def __getattribute__(self, name: str) -> Any:
            seen.append(len(table))
            return super().__getattribute__(name)

    shard = Shard(1, 0, 7, "ab" * 32, b"x" * 32)
    parts = {name: getattr(shard, name) for name in ("number", "offset", "size", "end", "sha256", "pieces")}
    table.append(cast(Shard, Seen(**parts)))
    assert len(seen) > 3 and not any(seen)
    assert table == [shard]


def test_concurrent_answers_are_limited_for_large_pieces() -> None:
    limits = Limits()
    assert limits.memory == TRANSFER_MEMORY == 512 * MIB
    assert limits.answers_for(256 * 1024) == 10
    assert limits.answers_for(8 * MIB) == 10
    assert limits.answers_for(16 * MIB) == 7
    assert limits.answers_for(64 * MIB) == 1
    assert Limits(memory=1).answers_for(256 * 1024) == 1
    assert Limits(at_once=1000).answers_for(256 * 1024) == 64


async def test_requests_are_limited_by_transfer_memory(tmp_path: Path) -> None:
    """Answers in chunks take two buffers of a piece each."""
    piece, payload = 2 * MIB, Random(1).randbytes(12 * MIB)
    shards, data = [], tmp_path / "data" / "v1"
    data.mkdir(parents=True)
    for at in range(6):
        part = payload[at * piece : (at + 1) * piece]
        (data / f"shard_{at + 1:03}.bin").write_bytes(part)
        shards.append(Shard(at + 1, at * piece, piece, sha256(part).hexdigest(), piece_digest(part)))
    header = Header("v1", "a1", "x", size=len(payload), shard_size=piece, piece_size=piece)
    manifest = build_manifest(header, shards, {"sha256": sha256(payload).hexdigest()})
    under_way, most, right = 0, 0, bad.chunked()

    async def counted(exchange: Exchange) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)  # long enough for whoever asks for more at once to do so
        under_way -= 1
        await right(exchange)

    limits = Limits(memory=24 * MIB)
    assert limits.answers_for(piece) == 2
    filling = OutputFile(tmp_path / "got", LiveManifest.of(manifest))
    try:
        with BadServer(tmp_path / "data") as server:
            server.set("/v1/shard_*", counted)
            async with open_session() as session:
                peers = [Peer(server.url, session)]
                await Transfer(LiveManifest.of(manifest), peers, filling, limits=limits).run()
    finally:
        filling.close()
    assert (tmp_path / "got").read_bytes() == payload
    assert most == 2


async def test_manifests_read_for_one_list_share_the_memory_budget(tmp_path: Path) -> None:
    """A second server's manifests are read whole, and each may take a part only."""
    lines = tiny_shards(COUNT)
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "manifest.jsonl").write_bytes(b"".join(lines))
    with BadServer(tmp_path) as server:
        async with open_session() as session:
            peer = Peer(server.url, session)
            assert (manifest := await peer.manifest("v1")) and len(manifest.shards) == COUNT
            with pytest.raises(BadAnswer, match="bytes of memory"):
                await peer.manifest("v1", memory=MIB)
    assert _DESCRIBED_AT_ONCE * (MAX_MEMORY // _DESCRIBED_AT_ONCE) <= TRANSFER_MEMORY
