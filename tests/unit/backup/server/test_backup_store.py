"""A pack's way into the store: announced, verified, accepted or withdrawn, within the quota."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shardcast.backup.packs import MAGIC
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.chunk_table import find_there, locate
from shardcast.backup.server.pack_table import used_bytes
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.runs import ActiveRun, end_run, find_run
from shardcast.backup.wire import NOWHERE
from shardcast.digest import new_hasher
from tests.support.backup_stores import StoreClient, open_store, pack_of, random_contents


async def parts(data: bytes) -> AsyncIterator[bytes]:
    yield data[:100]
    yield data[100:]


async def run_of(client: StoreClient) -> ActiveRun:
    return await client.store.database.read(find_run, client.number, client.run, client.store.clock())


def sha256(data: bytes) -> str:
    hasher = new_hasher("sha256")
    hasher.update(data)
    return hasher.hexdigest()


def files_of(store: BackupStore) -> list[str]:
    return [file.name for file in store.folder.packs.glob("??/*")]


async def assert_nothing_is_kept(store: BackupStore) -> None:
    assert files_of(store) == []
    for table in ("pack", "chunk", "discard"):
        count = await store.database.read(
            lambda database, name=table: database.execute(f"SELECT count(*) FROM {name}").fetchone()
        )
        assert count == (0,), table


async def test_pack_is_kept_and_its_chunks_are_found(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        contents = random_contents("a", 3)
        pack, ids = pack_of(contents)
        data = bytes(pack.data)
        for new in (3, 0):
            kept = await store.receive_pack(1, await run_of(client), pack.sha256, len(data), parts(data))
            assert kept == (3, new)
        assert await store.database.read(find_there, 1, [*ids, b"?" * 32]) == set(ids)
        found = await store.database.read(locate, 1, [*ids, b"?" * 32])
        assert found[3] == NOWHERE
        for place, content in zip(found[:3], contents, strict=True):
            stored = store.pack_path(place.pack.hex()).read_bytes()
            assert stored[place.offset : place.offset + place.length][1:] == content


async def test_chunk_that_is_there_stays_where_it_is(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        first, second = random_contents("a", 2), random_contents("b", 2)
        ids = await client.put(first)
        before = await store.database.read(locate, 1, ids)
        pack, _ = pack_of([*first, *second])
        kept = await store.receive_pack(
            1, await run_of(client), pack.sha256, len(pack.data), parts(bytes(pack.data))
        )
        assert kept == (4, 2)
        assert await store.database.read(locate, 1, ids) == before


async def test_chunks_of_another_client_are_not_there(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        ids = await client.put(random_contents("a", 2))
        assert await store.database.read(find_there, 2, ids) == set()
        assert await store.database.read(locate, 2, ids) == [NOWHERE] * 2


@pytest.mark.parametrize(
    "case", ["cut off", "longer", "other bytes", "no pack", "wrong index", "overlong chunk"]
)
async def test_wrong_pack_leaves_nothing(tmp_path: Path, case: str) -> None:
    pack, _ = pack_of(random_contents("a", 3))
    data = bytes(pack.data)
    digest, size = pack.sha256, len(data)
    if case == "cut off":
        data = data[:-1]
    elif case == "longer":
        data += b"x"
    elif case == "other bytes":
        data = data[:20] + b"XXXX" + data[24:]
    else:
        changed = {
            "no pack": b"these bytes are no pack " * 20,
            "wrong index": data[:-12] + (7).to_bytes(4, "little") + MAGIC,
            "overlong chunk": data[:-16] + (1 << 31).to_bytes(4, "little") + data[-12:],
        }
        data = changed[case]
        digest, size = sha256(data), len(data)
    async with open_store(tmp_path / "store") as (store, client):
        with pytest.raises(BackupRefused) as refused:
            await store.receive_pack(1, await run_of(client), digest, size, parts(data))
        assert refused.value.status == 422
        await assert_nothing_is_kept(store)


async def test_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    pack, _ = pack_of(random_contents("a", 3))

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(pack.data[:50])
        raise ConnectionResetError("the client went away")

    async with open_store(tmp_path / "store") as (store, client):
        with pytest.raises(ConnectionResetError):
            await store.receive_pack(1, await run_of(client), pack.sha256, len(pack.data), broken())
        await assert_nothing_is_kept(store)


async def test_pack_of_a_run_that_ends_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    pack, _ = pack_of(random_contents("a", 3))
    async with open_store(tmp_path / "store") as (store, client):

        async def ending() -> AsyncIterator[bytes]:
            yield bytes(pack.data)
            await store.database.write(end_run, 1, client.run)
            await store.database.write(lambda database: database.execute("DELETE FROM pack"))

        with pytest.raises(BackupRefused, match="ended"):
            await store.receive_pack(1, await run_of(client), pack.sha256, len(pack.data), ending())
        await assert_nothing_is_kept(store)


async def test_same_pack_of_another_client_stays_when_one_is_withdrawn(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        pack, _ = pack_of(random_contents("a", 3))
        await client.put(random_contents("a", 3))

        async def broken() -> AsyncIterator[bytes]:
            yield bytes(pack.data[:50])
            raise ConnectionResetError("the client went away")

        with pytest.raises(ConnectionResetError):
            await store.receive_pack(1, await run_of(client), pack.sha256, len(pack.data), broken())
        assert files_of(store) == [pack.sha256]


async def test_quota_bounds_the_bytes_of_a_client(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        pack, _ = pack_of(random_contents("a", 3))
        size = len(pack.data)
        run = await run_of(client)
        with pytest.raises(BackupRefused, match="quota") as refused:
            await store.receive_pack(1, run, pack.sha256, size, parts(bytes(pack.data)), size - 1)
        assert refused.value.status == 507
        await store.receive_pack(1, run, pack.sha256, size, parts(bytes(pack.data)), size)
        assert await store.database.read(used_bytes, 1) == size
