"""The body that commits a snapshot: exact lengths, bounds, and a head of known fields only."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.backup.server import commit_reader
from shardcast.backup.server.commit_reader import BodyReader, parse_head, read_commit
from shardcast.backup.server.refusals import BackupRefused, ChunksMissing
from shardcast.backup.server.runs import find_run
from shardcast.backup.server.snapshot_table import NewSnapshot
from shardcast.backup.wire import encode_commit
from tests.support.backup_stores import StoreClient, open_store, random_contents


async def parts_of(data: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(client: StoreClient, body: bytes) -> NewSnapshot:
    store = client.store
    run = await store.database.read(find_run, client.number, client.run, store.clock())
    return await read_commit(store, run, parts_of(body, 1000))


def commit_body(*ids: bytes, base: str | None = None, removed: tuple[bytes, ...] = ()) -> bytes:
    return b"".join(encode_commit({"base": base, "tags": ["t"]}, b"record", ids, removed))


async def test_body_is_read_in_exact_lengths() -> None:
    body = BodyReader(parts_of(b"\x03\0\0\0abc" + b"i" * 64))
    assert await body.read_block(10, "head") == b"abc"
    assert [batch async for batch in body.ids(None)] == [[b"i" * 32] * 2]


@pytest.mark.parametrize("data", [b"", b"\x03\0", b"\x03\0\0\0ab", b"\xff\xff\xff\xff"])
async def test_block_that_ends_early_or_is_too_long_is_refused(data: bytes) -> None:
    with pytest.raises(BackupRefused):
        await BodyReader(parts_of(data)).read_block(10, "head")


@pytest.mark.parametrize(("data", "count"), [(b"i" * 33, None), (b"i" * 31, 1), (b"i" * 32, 2)])
async def test_ids_that_end_early_are_refused(data: bytes, count: int | None) -> None:
    with pytest.raises(BackupRefused):
        _ = [batch async for batch in BodyReader(parts_of(data)).ids(count)]


async def test_too_many_ids_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_reader, "MAX_SNAPSHOT_IDS", 3)
    with pytest.raises(BackupRefused) as refused:
        _ = [batch async for batch in BodyReader(parts_of(b"i" * 32 * 4)).ids(None)]
    assert refused.value.status == 413


async def test_chunks_of_a_base_are_counted_in(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (_, client):
        ids = await client.put(random_contents("a", 4))
        base = await client.commit(ids[:3])
        whole = await read(client, commit_body(*ids[1:], ids[1]))
        delta = await read(client, commit_body(ids[3], base=base, removed=(ids[0], b"?" * 32)))
        assert set(whole.needs) == set(delta.needs) == {1, 2, 3}
        with pytest.raises(BackupRefused, match="no snapshot"):
            await read(client, commit_body(ids[3], base="0123456789abcdef"))


async def test_missing_chunks_are_named_once(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (_, client):
        ids = await client.put(random_contents("a", 2))
        with pytest.raises(ChunksMissing) as missing:
            await read(client, commit_body(b"m" * 32, *ids, b"n" * 32, b"m" * 32))
        assert missing.value.ids == [b"m" * 32, b"n" * 32]


@pytest.mark.parametrize(
    "fields",
    [
        [],
        {"host": 5},
        {"path": "p" * 9000},
        {"tags": "t"},
        {"tags": ["t"] * 65},
        {"tags": [5]},
        {"files": -1},
        {"files": True},
        {"bytes": 1.5},
        {"new_bytes": 1 << 63},
        {"base": 5},
        {"base": "../../etc"},
        {"host": "\ud800"},
    ],
)
def test_malformed_head_is_refused(fields: Any) -> None:
    with pytest.raises(BackupRefused) as refused:
        parse_head(json.dumps(fields).encode())
    assert refused.value.status == 400


def test_head_keeps_known_fields_only() -> None:
    head = parse_head(b'{"host": "h", "path64": "/w==", "id": "forged", "arrived": 1, "tags": ["x"]}')
    assert head == {
        "host": "h",
        "path64": "/w==",
        "files": 0,
        "bytes": 0,
        "new_bytes": 0,
        "tags": ["x"],
        "base": None,
    }


@given(st.binary(max_size=60))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    try:
        assert "base" in parse_head(data)
    except BackupRefused as error:
        assert error.status == 400
