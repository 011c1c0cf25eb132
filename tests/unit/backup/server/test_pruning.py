"""Pruning: what no snapshot needs goes, in two phases; what a run or a snapshot counts on stays."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from shardcast.backup.packs import MAX_CHUNKS, MAX_PACK
from shardcast.backup.server import rewriting
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.checking import check_store
from shardcast.backup.server.chunk_table import find_there, locate
from shardcast.backup.server.pack_use import PackUse
from shardcast.backup.server.pruning import condemn, prune
from shardcast.backup.server.rewriting import _of_one_new_pack
from shardcast.backup.server.runs import LEASE_SECONDS
from shardcast.backup.server.snapshot_table import forget_snapshots
from shardcast.backup.server.sweeping import Swept, sweep
from shardcast.backup.wire import NOWHERE
from shardcast.errors import IntegrityError
from tests.support.backup_stores import StoreClient, open_store, pack_of, random_contents

NEVER = 1e18


async def forget(client: StoreClient, *names: str) -> None:
    await client.store.database.write(forget_snapshots, client.number, names, NEVER)


async def readable(store: BackupStore, ids: list[bytes]) -> bool:
    """Return whether the chunks lie where the database says, byte for byte."""
    places = await store.database.read(locate, 1, ids)
    if NOWHERE in places:
        return False
    return all(store.pack_path(place.pack.hex()).exists() for place in places)


async def test_dead_packs_go_and_needed_ones_stay(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        kept_ids = await client.put(random_contents("a", 3))
        dead_ids = await client.put(random_contents("b", 3))
        await client.commit(kept_ids)
        name = await client.commit(dead_ids, b"other")
        await client.end()
        await forget(client, name)
        planned = await prune(store, 0.0, dry_run=True)
        done = await prune(store, 0.0)
        assert planned.condemned == done.deleted and done.deleted.packs == 1
        assert planned.kept_bytes == done.kept_bytes
        assert await readable(store, kept_ids) and await store.database.read(find_there, 1, dead_ids) == set()
        assert len(list(store.folder.packs.glob("??/*"))) == 1
        assert (await check_store(store, lambda number: True)).is_whole


async def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        ids = await client.put(random_contents("a", 3))
        await client.end()
        assert (await prune(store, 0.0, dry_run=True)).condemned.packs == 1
        assert await store.database.read(find_there, 1, ids) == set(ids)


async def test_condemned_pack_goes_after_the_grace(tmp_path: Path) -> None:
    now = [1000.0]
    async with open_store(tmp_path / "store", lambda: now[0]) as (store, client):
        ids = await client.put(random_contents("a", 3))
        await client.end()
        report = await prune(store, 60.0)
        assert (report.deleted.packs, report.condemned.packs) == (0, 1)
        assert await readable(store, ids), "a restore that began before reads on"
        assert await store.database.read(find_there, 1, ids) == set(), "and no later backup counts on it"
        now[0] += 59.0
        assert (await sweep(store, 60.0)).packs == 0
        now[0] += 1.0
        assert (await sweep(store, 60.0)).packs == 1
        assert not await readable(store, ids)


async def test_run_that_was_told_of_chunks_keeps_them_until_it_commits(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        ids = await client.put(random_contents("a", 3))
        await client.end()
        await client.begin()
        assert await store.database.read(find_there, 1, ids) == set(ids)
        report = await prune(store, 0.0)
        assert report.waits_for_run and report.deleted.packs == 0
        await client.commit(ids)
        await client.end()
        assert (await prune(store, 0.0)).deleted.packs == 0
        assert await readable(store, ids)
        assert await store.database.read(find_there, 1, ids) == set(ids), "the pack is whole again"
        assert (await check_store(store, lambda number: True)).is_whole


async def test_later_run_does_not_keep_what_was_condemned_before(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        ids = await client.put(random_contents("a", 3))
        await client.end()
        await prune(store, 1000.0)
        await client.begin()
        assert (await sweep(store, 0.0)).packs == 1
        with pytest.raises(AssertionError):
            await client.commit(ids)


async def test_chunk_that_is_sent_again_leaves_the_condemned_pack(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        contents = random_contents("a", 3)
        ids = await client.put(contents)
        await client.end()
        await prune(store, 1000.0)
        await client.begin()
        await client.put([*contents, b"more"])
        await client.commit(ids)
        await client.end()
        assert (await sweep(store, 0.0)).packs == 1
        assert await readable(store, ids)


async def test_same_pack_that_is_sent_again_is_not_condemned(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        contents = random_contents("a", 3)
        ids = await client.put(contents)
        await client.end()
        await prune(store, 1000.0)
        await client.begin()
        assert await client.put(contents) == ids
        assert (await sweep(store, 0.0)).packs == 0
        assert await readable(store, ids)


async def test_packs_of_a_run_under_way_are_not_condemned(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        ids = await client.put(random_contents("a", 3))
        assert (await prune(store, 0.0)).condemned.packs == 0
        assert await store.database.read(find_there, 1, ids) == set(ids)


async def test_sweep_leaves_what_a_snapshot_needs_whoever_condemned_it(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        ids = await client.put(random_contents("a", 3))
        await client.commit(ids[:1])
        await client.end()
        await store.database.write(condemn, [1], 0.0)
        assert await sweep(store, 0.0) == Swept()
        assert await store.database.read(find_there, 1, ids) == set(ids)


async def test_mostly_dead_pack_is_rewritten(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        contents = random_contents("a", 10)
        ids = await client.put(contents)
        await client.commit(ids[::4])
        await client.end()
        report = await prune(store, 0.0)
        assert report.rewritten.packs == 1 and report.deleted.packs == 1 and not report.no_room
        places = await store.database.read(locate, 1, ids[::4])
        for place, content in zip(places, contents[::4], strict=True):
            data = store.pack_path(place.pack.hex()).read_bytes()
            assert data[place.offset : place.offset + place.length][1:] == content
        assert (await check_store(store, lambda number: True)).is_whole
        assert (await prune(store, 0.0)).rewritten.packs == 0


async def test_without_room_nothing_is_rewritten_and_dead_packs_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "_has_room", lambda folder: False)
    async with open_store(tmp_path / "store") as (store, client):
        ids = await client.put(random_contents("a", 10))
        await client.put(random_contents("b", 10))
        await client.commit(ids[:1])
        await client.end()
        report = await prune(store, 0.0)
        assert report.no_room and report.deleted.packs == 1
        assert await readable(store, ids[:1])


async def test_damaged_pack_is_not_rewritten(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        contents = random_contents("a", 10)
        ids = await client.put(contents)
        await client.commit(ids[:1])
        await client.end()
        file = store.pack_path(pack_of(contents)[0].sha256)
        file.chmod(0o600)
        file.write_bytes(file.read_bytes()[:-1] + b"?")
        assert (await prune(store, 0.0)).rewritten.packs == 0
        assert file.exists() and await readable(store, ids[:1])


async def test_damaged_list_of_a_snapshot_stops_the_prune(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as (store, client):
        ids = await client.put(random_contents("a", 3))
        await client.commit(ids)
        await client.put(random_contents("b", 3))
        await client.end()
        await store.database.write(lambda database: database.execute("UPDATE snapshot SET needs = x'00'"))
        with pytest.raises(IntegrityError, match=r"list of chunks of snapshot [0-9a-f]{16} "):
            await prune(store, 0.0)
        assert len(list(store.folder.packs.glob("??/*"))) == 2


async def test_announcements_of_ended_runs_and_dead_prunes_are_withdrawn(tmp_path: Path) -> None:
    now = [0.0]
    async with open_store(tmp_path / "store", lambda: now[0]) as (store, _):
        digests = [bytes([number]) * 32 for number in range(2)]
        for digest, run in zip(digests, (1, None), strict=True):
            await store.database.write(
                lambda database, values=(digest, run): database.execute(
                    "INSERT INTO pack (client, digest, size, state, run) VALUES (1, ?, 5, 'arriving', ?)",
                    values,
                )
            )
            file = store.pack_path(digest.hex())
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"lefts")
        await sweep(store)
        assert all(store.pack_path(digest.hex()).exists() for digest in digests), "they may still arrive"
        now[0] += LEASE_SECONDS
        await sweep(store)
        assert [store.pack_path(digest.hex()).exists() for digest in digests] == [False, True]
        await sweep(store, prune_is_dead=True)
        assert not store.pack_path(digests[1].hex()).exists()


def test_rewritten_packs_are_within_the_bounds_of_a_pack() -> None:
    """Packs of other programs may have 32 MiB, and very small files make 65 536 chunks of a pack."""
    large = [PackUse(number, 1, MAX_PACK, True, MAX_PACK // 2 - 1, 9) for number in range(3)]
    assert list(_of_one_new_pack(large)) == [[0], [1], [2]]
    small = [PackUse(number, 1, 4 << 20, True, 1 << 20, MAX_CHUNKS // 2) for number in range(5)]
    assert list(_of_one_new_pack(small)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("seed", range(3))
async def test_history_of_backups_and_prunes_keeps_every_snapshot(tmp_path: Path, seed: int) -> None:
    choose, snapshots = random.Random(seed), dict[str, list[bytes]]()
    everything = list[bytes]()
    async with open_store(tmp_path / "store") as (store, client):
        for step in range(25):
            action = choose.choice(("put", "put", "commit", "forget", "prune", "restart"))
            if action == "put":
                everything += await client.put(random_contents(f"{seed}/{step}", choose.randint(1, 8), 300))
            elif action == "commit":
                there = list(await store.database.read(find_there, 1, everything))
                chosen = choose.sample(sorted(there), len(there) // 2)
                snapshots[await client.commit(chosen, b"%d" % step)] = chosen
            elif action == "forget" and snapshots:
                name = choose.choice(sorted(snapshots))
                del snapshots[name]
                await forget(client, name)
            elif action == "prune":
                await prune(store, 0.0)
            elif action == "restart":
                await client.end()
                await client.begin()
            for ids in snapshots.values():
                assert await readable(store, ids), (step, action)
        await client.end()
        report = await prune(store, 0.0)
        assert report.condemned.packs == 0
        found = await check_store(store, lambda number: True)
        assert found.is_whole and found.unknown_files == 0
        needed = {chunk for ids in snapshots.values() for chunk in ids}
        size = sum(file.stat().st_size for file in store.folder.packs.glob("??/*"))
        assert size <= 2 * 340 * len(needed) + 200, "at most half of what is kept is dead"
