"""Sharing of chunks between clients: by proof alone, whole after every prune, safe from a hostile client."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shardcast.backup.encoding import encode_chunk
from shardcast.backup.ids import ChunkKind, chunk_id
from shardcast.backup.packs import PackWriter
from shardcast.backup.proofs import proof_key, prove
from shardcast.backup.server.accounts import make_invitation, register
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.checking import check_store
from shardcast.backup.server.chunk_table import find_there, locate
from shardcast.backup.server.pruning import condemn, prune
from shardcast.backup.server.runs import find_run
from shardcast.backup.server.sharing import share_chunks
from shardcast.backup.server.snapshot_table import forget_snapshots
from shardcast.backup.wire import MIN_SHARED, NOWHERE
from tests.support.backup_stores import KEY, StoreClient, open_store, pack_of, random_contents

NEVER = 1e18
SIZE = MIN_SHARED + 100


@asynccontextmanager
async def sharing_store(folder: Path, count: int = 2) -> AsyncIterator[tuple[BackupStore, list[StoreClient]]]:
    """Yield a store, and clients in a run that share chunks; one more client shares none."""
    async with open_store(folder) as (store, _):
        clients = []
        for number in range(count):
            invitation = await store.database.write(make_invitation, store.clock(), store.clock() + 100.0)
            made = await store.database.write(
                register, invitation, f"host{number}", "/", store.clock(), shares=True
            )
            assert made.shares
            clients.append(StoreClient(store, number + 2))
            await clients[-1].begin()
        yield store, clients


def contents_of(seed: object, count: int) -> list[bytes]:
    return random_contents(seed, count, SIZE)


def ids_of(contents: Sequence[bytes]) -> list[bytes]:
    return [chunk_id(KEY, ChunkKind.DATA, content) for content in contents]


async def share(client: StoreClient, contents: Sequence[bytes], key: bytes | None = None) -> set[bytes]:
    """Prove to have contents, with the key of the client's run or another one; return the shared ids."""
    right = proof_key(client.run)
    proofs = {
        chunk: prove(key or right, content) for chunk, content in zip(ids_of(contents), contents, strict=True)
    }
    return await share_chunks(client.store, client.number, right, proofs)


async def forget(client: StoreClient, *names: str) -> None:
    await client.store.database.write(forget_snapshots, client.number, names, NEVER)


async def end_runs(*clients: StoreClient) -> None:
    for client in clients:
        await client.end()


async def read(client: StoreClient, ids: Sequence[bytes]) -> list[bytes]:
    """Return the stored bytes of chunks, none of which is compressed."""
    places = await client.store.database.read(locate, client.number, ids)
    assert NOWHERE not in places
    return [
        client.store.pack_path(place.pack.hex()).read_bytes()[place.offset + 1 : place.offset + place.length]
        for place in places
    ]


async def test_clients_that_share_have_one_key_of_ids_and_others_their_own(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store") as (store, _):
        rows = await store.database.read(
            lambda database: database.execute("SELECT id_key FROM client ORDER BY number").fetchall()
        )
        assert rows[1] == rows[2] != rows[0]


async def test_proven_chunk_is_there_for_both_and_stored_once(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store") as (store, [one, two]):
        contents = contents_of("a", 3)
        ids = await one.put(contents)
        assert await store.database.read(find_there, two.number, ids) == set()
        assert await share(two, contents) == set(ids)
        assert await read(two, ids) == contents
        await two.commit(ids)
        assert len(list(store.folder.packs.glob("??/*"))) == 1


async def test_id_without_the_bytes_opens_nothing(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store") as (store, [one, two]):
        contents = contents_of("a", 3)
        ids = await one.put(contents)
        replayed = proof_key(one.run)
        assert await share(two, contents, replayed) == set(), "proofs of another run"
        guesses = dict(zip(ids, (b"\0" * 32, ids[0], prove(proof_key(two.run), b"")), strict=True))
        assert await share_chunks(store, two.number, proof_key(two.run), guesses) == set()
        assert await store.database.read(locate, two.number, ids) == [NOWHERE] * 3


async def test_client_that_shares_nothing_neither_gives_nor_takes(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store") as (store, [one, _]):
        private = StoreClient(store, 1)
        await private.begin()
        contents = contents_of("a", 2)
        await private.put(contents)
        assert await share(one, contents) == set()


async def test_small_chunk_is_not_shared(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store") as (_, [one, two]):
        contents = random_contents("a", 2, MIN_SHARED - 2)
        await one.put(contents)
        assert await share(two, contents) == set()


async def test_condemned_and_missing_packs_are_not_shared(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store") as (store, [one, two]):
        condemned, gone = contents_of("a", 2), contents_of("b", 2)
        await one.put(condemned)
        await store.database.write(condemn, [1], store.clock())
        await one.put(gone)
        store.pack_path(pack_of(gone)[0].sha256).unlink()
        assert await share(two, [*condemned, *gone]) == set()


async def test_other_bytes_under_an_id_are_never_shared(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store", 3) as (_, [hostile, honest, other]):
        [content] = contents_of("a", 1)
        [chunk] = ids_of([content])
        for garbage in (b"\0" + b"?" * SIZE, b"\1" + b"?" * SIZE, b"\7" + content):
            writer = PackWriter()
            writer.add(chunk, garbage)
            await put_pack(hostile, writer)
            assert await share(honest, [content]) == set()
        await honest.put([content])
        assert await share(other, [content]) == {chunk}, "the right bytes are found behind the wrong ones"
        assert await read(other, [chunk]) == [content]


async def test_wrong_proofs_end_the_reading(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store") as (store, [one, two]):
        contents = contents_of("a", 40)
        ids = await one.put(contents)
        proofs = dict.fromkeys(ids[:39], b"\x00" * 32)
        proofs[ids[39]] = prove(proof_key(two.run), contents[39])
        assert await share_chunks(store, two.number, proof_key(two.run), proofs) == set()


async def test_prune_keeps_what_the_other_client_needs(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store") as (store, [one, two]):
        contents = contents_of("a", 10)
        ids = await one.put(contents)
        first = await one.commit(ids)
        await share(two, contents[:2])
        second = await two.commit(ids[:2])
        await end_runs(one, two)
        await forget(one, first)
        report = await prune(store, 0.0)
        assert report.rewritten.packs == 1 and report.deleted.packs == 1
        assert await read(two, ids[:2]) == contents[:2]
        assert (await check_store(store, lambda number: True)).is_whole
        assert sum(file.stat().st_size for file in store.folder.packs.glob("??/*")) < 3 * SIZE
        await forget(two, second)
        assert (await prune(store, 0.0)).kept_bytes == 0


async def test_run_keeps_what_it_shared_until_it_commits(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store") as (store, [one, two]):
        contents = contents_of("a", 3)
        ids = await one.put(contents)
        await store.database.write(
            lambda database: database.execute("DELETE FROM run WHERE client = ?", (one.number,))
        )
        await share(two, contents)
        report = await prune(store, 0.0)
        assert report.deleted.packs == 0 and report.waits_for_run
        await two.commit(ids)
        await end_runs(two)
        await prune(store, 0.0)
        assert await read(two, ids) == contents


async def test_damage_is_told_of_both_clients_and_mended_for_each(tmp_path: Path) -> None:
    async with sharing_store(tmp_path / "store") as (store, [one, two]):
        contents = contents_of("a", 2)
        ids = await one.put(contents)
        await share(two, contents)
        names = {await one.commit(ids), await two.commit(ids)}
        store.pack_path(pack_of(contents)[0].sha256).unlink()
        found = await check_store(store, lambda number: True)
        assert {hurt.id for hurt in found.hurt} == names
        assert await store.database.read(find_there, two.number, ids) == set()
        await one.put([*contents, b"more"])
        assert await share(two, contents) == set(ids)
        assert (await check_store(store, lambda number: True)).hurt == []


async def test_rewriting_gives_no_client_the_bytes_of_another_place(tmp_path: Path) -> None:
    """A hostile client has other bytes under the id of a chunk that an honest one shares with it."""
    async with sharing_store(tmp_path / "store") as (store, [hostile, honest]):
        contents, filling = contents_of("a", 1), contents_of("b", 9)
        chunk, *_ = await hostile.put([*contents, *filling])
        await share(honest, contents)
        await honest.commit([chunk])
        await store.database.write(condemn, [1], store.clock())
        writer = PackWriter()
        writer.add(chunk, encode_chunk(b"?" * SIZE))
        for other in contents_of("c", 9):
            writer.add(ids_of([other])[0], encode_chunk(other))
        await put_pack(hostile, writer)
        await hostile.commit([chunk])
        await end_runs(hostile, honest)
        for _ in range(2):
            await prune(store, 0.0)
            assert await read(honest, [chunk]) == contents


@pytest.mark.parametrize("seed", range(3))
async def test_history_of_clients_that_share_keeps_every_snapshot(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    known = dict[bytes, bytes]()
    async with sharing_store(tmp_path / "store") as (store, clients):
        kept: dict[tuple[int, str], list[bytes]] = {}
        for step in range(30):
            client = choose.choice(clients)
            action = choose.choice(("put", "share", "commit", "forget", "prune", "restart"))
            if action == "put":
                contents = contents_of(f"{seed}/{step}", choose.randint(1, 6))
                known |= zip(await client.put(contents), contents, strict=True)
            elif action == "share":
                await share(client, choose.sample(sorted(known.values()), len(known) // 2))
            elif action == "commit":
                there = sorted(await store.database.read(find_there, client.number, list(known)))
                chosen = choose.sample(there, len(there) // 2)
                kept[client.number, await client.commit(chosen, b"%d" % step)] = chosen
            elif action == "forget" and kept:
                number, name = choose.choice(sorted(kept))
                del kept[number, name]
                await forget(StoreClient(store, number), name)
            elif action == "prune":
                await prune(store, 0.0)
            elif action == "restart":
                await client.end()  # of all clients
                for one in clients:
                    await one.begin()
            for (number, _), ids in kept.items():
                assert await read(StoreClient(store, number), ids) == [known[chunk] for chunk in ids], step
        await end_runs(*clients)
        for _ in range(2):
            report = await prune(store, 0.0)
        assert report.condemned.packs == 0
        found = await check_store(store, lambda number: True)
        assert found.is_whole and found.unknown_files == 0
        needed = {chunk for ids in kept.values() for chunk in ids}
        size = sum(file.stat().st_size for file in store.folder.packs.glob("??/*"))
        assert size <= 2 * 2 * (SIZE + 50) * len(needed) + 200, "at most half is dead, and twice there"


async def put_pack(client: StoreClient, writer: PackWriter) -> None:
    """Put a pack as it is."""
    pack = writer.finish()

    async def parts() -> AsyncIterator[bytes]:
        yield bytes(pack.data)

    run = await client.store.database.read(find_run, client.number, client.run, client.store.clock())
    await client.store.receive_pack(client.number, run, pack.sha256, len(pack.data), parts())
