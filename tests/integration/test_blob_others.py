"""Every store keeps the same contract; and what each has of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from shardcast.blobs.client.remote import RemoteStore
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.interface import BlobStore
from shardcast.blobs.mirror.mirror_store import MirrorStore
from shardcast.blobs.version_blobs import VersionBlobs
from shardcast.errors import (
    BlobCorrupt,
    BlobMissing,
    IntegrityError,
    NoRoom,
    ReadOnlyStore,
    UsageError,
)
from shardcast.nodes.origin import Origin
from shardcast.peer.session import open_session
from shardcast.protocol.manifest import Header, header_line, shard_line
from shardcast.store.data_dir import DataDir
from shardcast.store.versions import VersionFolders
from tests.support.archives import put_blobs, running_archive
from tests.support.memory_store import BlobsInMemory
from tests.support.payloads import cut, publish, random_bytes, sha256, shards
from tests.support.union_store import BlobUnion

Opening = Callable[[Path], AbstractAsyncContextManager[BlobStore]]


@asynccontextmanager
async def in_memory(_: Path) -> AsyncIterator[BlobStore]:
    yield BlobsInMemory()


@asynccontextmanager
async def in_a_directory(path: Path) -> AsyncIterator[BlobStore]:
    store = BlobDirectory(path, writable=True)
    yield store
    await store.close()


@asynccontextmanager
async def a_union(_: Path) -> AsyncIterator[BlobStore]:
    yield BlobUnion([BlobsInMemory(), BlobsInMemory()])


@asynccontextmanager
async def a_mirror(path: Path) -> AsyncIterator[BlobStore]:
    async with running_archive(path) as node, open_session() as session:
        store = MirrorStore(BlobsInMemory(), [RemoteStore(node.url, session)], "me")
        yield store
        await store.close()


@pytest.fixture(params=[in_memory, in_a_directory, a_union, a_mirror], ids=lambda opening: opening.__name__)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    async with request.param(tmp_path) as opened:
        yield opened


BLOBS = [b"", b"a", random_bytes(100_000), random_bytes(3_000_000, 2)]


async def read(store: BlobStore, digest: str, most: int = 70_000) -> bytes:
    async with store.open(digest) as reader:
        data = b""
        while part := await reader.read(most):
            assert len(part) <= most
            data += part
        assert len(data) == reader.size
        return data


async def test_put_blob_exists_until_deleted(store: BlobStore) -> None:
    keys = await put_blobs(store, *BLOBS, *BLOBS)
    for key, blob in zip(keys, BLOBS, strict=False):
        assert await store.size(key) == len(blob)
        assert await read(store, key) == blob
    assert sorted([key async for key in store.digests()]) == sorted(set(keys))
    assert await store.delete(keys[0])
    assert not await store.delete(keys[0])
    assert await store.size(keys[0]) is None
    with pytest.raises(BlobMissing):
        await read(store, keys[0])


async def test_read_small_returns_small_blobs_together(store: BlobStore) -> None:
    await put_blobs(store, *BLOBS)
    asked = [sha256(blob) for blob in (*BLOBS, b"missing")]
    assert await store.read_small(asked, 100_000) == {sha256(blob): blob for blob in BLOBS[:3]}
    assert await store.read_small(asked, 99_999) == {sha256(blob): blob for blob in BLOBS[:2]}
    assert await store.read_small([], 1) == {}


async def test_put_with_wrong_digest_keeps_nothing(store: BlobStore) -> None:
    with pytest.raises(IntegrityError):
        async with store.put(sha256(b"right")) as writer:
            await writer.write(b"wrong")
            await writer.commit()
    async with store.put() as writer:
        await writer.write(b"given up")
    with contextlib.suppress(ZeroDivisionError):
        async with store.put() as writer:
            await writer.write(b"given up")
            raise ZeroDivisionError
    assert [key async for key in store.digests()] == []


async def test_concurrent_puts_of_one_blob_succeed(store: BlobStore) -> None:
    await asyncio.gather(*(put_blobs(store, BLOBS[2]) for _ in range(8)))
    assert [key async for key in store.digests()] == [sha256(BLOBS[2])]
    assert await read(store, sha256(BLOBS[2])) == BLOBS[2]


# Memory


async def test_memory_store_refuses_blob_over_its_bound() -> None:
    store = BlobsInMemory(max_bytes=10)
    await put_blobs(store, b"12345")
    for _ in range(3):
        with pytest.raises(NoRoom):
            await put_blobs(store, b"123456")
    await put_blobs(store, b"12345", b"54321")  # the first is there already
    assert await store.delete(sha256(b"12345"))
    await put_blobs(store, b"abcde")
    assert BlobsInMemory("sha3-256").algorithm == "sha3-256"


# Unions


async def test_union_has_blobs_of_all_stores(tmp_path: Path) -> None:
    first, second = BlobsInMemory(), BlobsInMemory()
    union = BlobUnion([first, second])
    await put_blobs(second, b"second", b"both")
    await put_blobs(union, b"first", b"both")
    assert await second.size(sha256(b"first")) is None
    assert sorted([key async for key in union.digests()]) == sorted(
        map(sha256, (b"first", b"second", b"both"))
    )
    assert await union.delete(sha256(b"both"))
    assert await second.size(sha256(b"both")) is None
    with pytest.raises(UsageError):
        BlobUnion([first, BlobsInMemory("sha3-256")])
    with pytest.raises(UsageError):
        BlobUnion([])


async def test_union_reads_from_store_with_undamaged_blob(tmp_path: Path) -> None:
    async with in_a_directory(tmp_path) as damaged:
        await put_blobs(damaged, b"right")
        (file,) = tmp_path.rglob(f"{sha256(b'right')}")
        file.unlink()
        file.write_bytes(b"wrong")
        union = BlobUnion([damaged, BlobsInMemory()])
        with pytest.raises(BlobCorrupt):
            await read(union, sha256(b"right"))
        union = BlobUnion([damaged, whole := BlobsInMemory()])
        await put_blobs(whole, b"right")
        assert await read(union, sha256(b"right")) == b"right"
        assert await union.read_small([sha256(b"right")], 10) == {sha256(b"right"): b"right"}


async def test_mirror_repairs_damaged_local_blob(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    async with (
        in_a_directory(tmp_path / "blobs") as damaged,
        running_archive(tmp_path / "up", there := BlobsInMemory()) as node,
        open_session() as session,
    ):
        await put_blobs(damaged, b"right")
        await put_blobs(there, b"right")
        (file,) = (tmp_path / "blobs").rglob(f"{sha256(b'right')}")
        file.unlink()
        file.write_bytes(b"wrong")
        store = MirrorStore(damaged, [RemoteStore(node.url, session)], "me")
        assert await read(store, sha256(b"right")) == b"right"
        assert await read(damaged, sha256(b"right")) == b"right"
        await store.close()


# Shards


@pytest.fixture
async def folders(tmp_path: Path) -> AsyncIterator[VersionFolders]:
    data_dir = DataDir(tmp_path, "origin")
    yield VersionFolders(data_dir)
    data_dir.close()


async def test_shards_are_readable_as_blobs(folders: VersionFolders) -> None:
    store = VersionBlobs(folders)
    data = random_bytes(250_000)
    parts = cut(data, 100_000)
    await publish(folders, data, 100_000)
    await publish(folders, data[:100_000] + b"else", 100_000)
    expected = {sha256(part): part for part in (*parts, b"else")}
    assert sorted([key async for key in store.digests()]) == sorted(expected)
    for key, part in expected.items():
        assert await store.size(key) == len(part)
        assert await read(store, key) == part
        async with store.open(key) as reader:
            assert reader.span is not None and reader.span.length == len(part)
    assert await store.read_small([*expected, sha256(b"x")], 4) == {sha256(b"else"): b"else"}
    with pytest.raises(ReadOnlyStore):
        async with store.put():
            pass
    with pytest.raises(ReadOnlyStore):
        await store.delete(sha256(parts[0]))
    await folders.retire(1)
    assert await store.size(sha256(parts[1])) is None
    assert await read(store, sha256(parts[0])) == parts[0]  # of the other version


async def test_changed_shard_is_not_offered_as_blob(folders: VersionFolders) -> None:
    store = VersionBlobs(folders)
    await publish(folders, b"right")
    assert await read(store, sha256(b"right")) == b"right"
    folders.data_dir.shard(1, 1).write_bytes(b"wrong")
    with pytest.raises(BlobCorrupt):
        await read(store, sha256(b"right"))
    await publish(folders, b"right")
    assert await read(store, sha256(b"right")) == b"right"


async def test_shards_of_open_version_are_blobs_once_verified(folders: VersionFolders) -> None:
    parts = [b"first", b"lied of", b"to come"]
    store = VersionBlobs(folders)
    opened = folders.open(folders.data_dir.allot())
    header = Header("v1", "0f" * 16, "x", "file", None, 7, 4096, created=1.5)
    lines = header_line(header)
    for shard in shards(parts[:2], 4096):
        lines += shard_line(shard)
    opened.append_manifest(lines.replace(sha256(parts[1]).encode(), sha256(b"a lie").encode()))
    assert [key async for key in store.digests()] == []
    for number, part in enumerate(parts[:2], 1):
        opened.files.part(number).write_bytes(part)
        opened.files.commit_shard(number, sha256(part))
    assert await read(store, sha256(b"first")) == b"first"
    for key in (sha256(b"a lie"), sha256(b"lied of")):
        with pytest.raises((BlobCorrupt, BlobMissing)):
            await read(store, key)


async def test_node_serves_shards_by_digest(tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(random_bytes(250_000))
    key = sha256(payload.read_bytes()[100_000:200_000])
    async with (
        Origin.running(tmp_path / "data", "127.0.0.1", 0, shard_size=100_000) as origin,
        aiohttp.ClientSession() as session,
    ):
        await (await origin.publish(payload)).result()
        for name in (key, key.upper()):
            async with session.get(f"{origin.url}/{name}") as answer:
                assert (answer.status, answer.headers["ETag"]) == (200, f'"{key}"')
                assert sha256(await answer.read()) == key
        async with session.get(f"{origin.url}/{key}", headers={"Range": "bytes=5-9"}) as answer:
            assert (answer.status, await answer.read()) == (206, payload.read_bytes()[100_005:100_010])
        for name in (sha256(b"x"), key[:-1], key + "0"):
            async with session.get(f"{origin.url}/{name}") as answer:
                assert answer.status == 404
