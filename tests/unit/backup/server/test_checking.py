"""The check of a store: damage is found, named, recorded, and mended by the next upload."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.checking import StoreCheck, check_store, subset
from shardcast.backup.server.chunk_table import find_there
from shardcast.backup.server.refusals import ChunksMissing
from shardcast.backup.server.runs import find_run
from shardcast.backup.server.snapshot_table import NewSnapshot, commit_snapshot, damaged_chunks, read_needs
from tests.support.backup_stores import open_store, pack_of, random_contents

CONTENTS = random_contents("a", 3)


def file_of(store: BackupStore) -> Path:
    file = store.pack_path(pack_of(CONTENTS)[0].sha256)
    file.chmod(0o600)
    return file


async def check(store: BackupStore, *, read: bool = True) -> StoreCheck:
    return await check_store(store, lambda number: read)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
async def test_damage_hurts_snapshots_until_the_next_upload(tmp_path: Path, damage: str) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        ids = await client.put(CONTENTS)
        other = await client.put(random_contents("b", 3))
        name = await client.commit(ids[:2])
        await client.commit(other, b"other")
        file = file_of(store)
        data = file.read_bytes()
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(data[:-1] if damage == "cut" else data[:50] + b"?" + data[51:])
        found = await check(store)
        assert not found.is_whole
        assert (found.lost if damage == "gone" else found.damaged) == [str(file)]
        assert [(hurt.client, hurt.id, hurt.chunks) for hurt in found.hurt] == [("host-home", name, 2)]
        assert await store.database.read(find_there, 1, [*ids, *other]) == set(other)
        assert set(await store.database.read(damaged_chunks, 1, name)) == set(ids[:2])

        await client.put([*CONTENTS, b"another pack"])
        assert await store.database.read(damaged_chunks, 1, name) == []
        mended = await check(store)
        assert mended.hurt == [] and await store.database.read(find_there, 1, ids) == set(ids)


async def test_look_without_reading_finds_lost_and_cut_files_only(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        await client.commit(await client.put(CONTENTS))
        file = file_of(store)
        data = file.read_bytes()
        file.write_bytes(data[:50] + b"?" + data[51:])
        assert (await check(store, read=False)).is_whole
        assert not (await check(store)).is_whole
        assert not (await check(store, read=False)).is_whole, "what is known to be damaged is told again"
        file.write_bytes(data)
        restored = await check(store, read=False)
        assert restored.is_whole and restored.mended == 1


async def test_commit_of_chunks_that_were_found_damaged_names_them(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        ids = await client.put(CONTENTS)
        name = await client.commit(ids)
        needs = await store.database.read(read_needs, 1, name)
        file_of(store).unlink()
        await check(store)
        run = await store.database.read(find_run, 1, client.run, store.clock())
        with pytest.raises(ChunksMissing) as missing:
            await store.database.write(
                commit_snapshot, run, NewSnapshot({}, b"next", needs), store.clock(), None
            )
        assert set(missing.value.ids) == set(ids)


async def test_unknown_files_and_broken_tables_are_told(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        await client.commit(await client.put(CONTENTS))
        stranger = store.pack_path("ab" * 32)
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_bytes(b"?")
        assert (await check(store)).unknown_files == 1
        await store.database.write(lambda database: database.execute("DELETE FROM chunk WHERE offset = 8"))
        found = await check(store)
        assert [hurt.chunks for hurt in found.hurt] == [1]
        await store.database.write(lambda database: database.execute("UPDATE snapshot SET needs = x'01'"))
        assert any("list of chunks" in words for words in (await check(store)).database)


def test_subsets_cover_all_packs_once() -> None:
    parts = [subset(part, 3) for part in (1, 2, 3)]
    assert all(sum(part(number) for part in parts) == 1 for number in range(30))
