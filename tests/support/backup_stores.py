"""Stores of backups for tests: packs of given chunks, and a client's way through a store or a server."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from shardcast.backup.client.remote import BackupServer
from shardcast.backup.encoding import encode_chunk
from shardcast.backup.ids import ChunkKind, chunk_id
from shardcast.backup.packs import Pack, PackWriter
from shardcast.backup.server.accounts import make_invitation, register
from shardcast.backup.server.app import BackupServerNode
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.chunk_sets import ChunkSet
from shardcast.backup.server.chunk_table import find_numbers
from shardcast.backup.server.management import StoreManager
from shardcast.backup.server.runs import begin_run, find_run
from shardcast.backup.server.snapshot_table import NewSnapshot, commit_snapshot
from shardcast.backup.server.state import BackupRules
from shardcast.backup.server.store_folder import StoreFolder

T = TypeVar("T")
KEY = b"k" * 32
HEAD: dict[str, object] = {"host": "desk", "path": "/home/me", "tags": [], "base": None}
"""Head of a snapshot without a base."""


def pack_of(contents: Sequence[bytes], key: bytes = KEY) -> tuple[Pack, list[bytes]]:
    """Return a pack with these chunks, and their ids."""
    writer, ids = PackWriter(), list[bytes]()
    for content in contents:
        ids.append(chunk_id(key, ChunkKind.DATA, content))
        writer.add(ids[-1], encode_chunk(content))
    return writer.finish(), ids


def random_contents(seed: object, count: int, size: int = 500) -> list[bytes]:
    """Return contents that nothing compresses, the same for a seed."""
    return [hashlib.shake_128(f"{seed}/{number}".encode()).digest(size) for number in range(count)]


class StoreClient:
    """A client of a store without a server between.

    Attributes:
        store: the store.
        number: the client's number.
    """

    def __init__(self, store: BackupStore, number: int) -> None:
        self.store = store
        self.number = number
        self.run = ""

    async def begin(self) -> None:
        """Begin a run."""
        self.run = await self.store.database.write(begin_run, self.number, "host", "/", self.store.clock())

    async def put(self, contents: Sequence[bytes]) -> list[bytes]:
        """Put a pack, and return the ids of its chunks."""
        pack, ids = pack_of(contents)

        async def parts() -> AsyncIterator[bytes]:
            yield bytes(pack.data)

        run = await self.store.database.read(find_run, self.number, self.run, self.store.clock())
        await self.store.receive_pack(self.number, run, pack.sha256, len(pack.data), parts())
        return ids

    async def commit(self, ids: Sequence[bytes], record: bytes = b"record") -> str:
        """Commit a snapshot that needs some chunks, and return its id."""
        database = self.store.database
        run = await database.read(find_run, self.number, self.run, self.store.clock())
        found = await database.read(find_numbers, self.number, run.number, ids)
        assert {chunk.id for chunk in found} == set(ids)
        needs = ChunkSet(chunk.number for chunk in found)
        name, _ = await database.write(
            commit_snapshot, run, NewSnapshot({"tags": []}, record, needs), self.store.clock(), None
        )
        return name

    async def end(self) -> None:
        """End the run."""
        await self.store.database.write(lambda database: database.execute("DELETE FROM run"))


@asynccontextmanager
async def open_store(
    folder: Path, clock: Callable[[], float] | None = None
) -> AsyncIterator[tuple[BackupStore, StoreClient]]:
    """Yield a new store, and its first client, whose run has begun."""
    place = StoreFolder(folder)
    place.make()
    store = BackupStore(place, clock) if clock else BackupStore(place)
    try:
        invitation = await store.database.write(make_invitation, store.clock(), store.clock() + 100.0)
        await store.database.write(register, invitation, "host", "/home", store.clock())
        client = StoreClient(store, 1)
        await client.begin()
        yield store, client
    finally:
        await store.close()


@asynccontextmanager
async def running_server(folder: Path, **rules: object) -> AsyncIterator[BackupServerNode]:
    """Run a backup server on this machine."""
    async with BackupServerNode.running(folder, BackupRules(**rules), "127.0.0.1") as node:  # type: ignore[arg-type]
        yield node


@asynccontextmanager
async def registered(
    url: str, folder: Path, host: str = "desk", **words: object
) -> AsyncIterator[tuple[BackupServer, bytes]]:
    """Yield a client that has registered, and its key for ids; ``words`` are of the invitation."""
    with StoreManager.opened(StoreFolder(folder)) as manager:
        invitation = manager.invite(100.0, **words)  # type: ignore[arg-type]
    stranger = BackupServer(url)
    try:
        made = await asyncio.to_thread(stranger.register, invitation, host, b"/home/me")
    finally:
        stranger.close()
    client = BackupServer(url, made.key)
    try:
        yield client, made.id_key
    finally:
        client.close()


async def call(work: Callable[..., T], *args: object) -> T:
    """Return the result of a blocking call, made in a thread that a server of this process can't need."""
    with ThreadPoolExecutor(1) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, work, *args)


async def save(client: BackupServer, key: bytes, contents: list[bytes]) -> tuple[str, list[bytes]]:
    """Send contents, make a snapshot that needs them, and return its id and the chunks' ids."""
    run = await call(client.begin_run, "desk", b"/home/me")
    pack, ids = pack_of(contents, key)
    await call(run.put_pack, pack)
    name = await call(run.commit, HEAD, b"record", ids)
    await call(run.end)
    assert isinstance(name, str)
    return name, ids
