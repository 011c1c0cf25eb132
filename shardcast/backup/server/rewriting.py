"""Rewriting: the needed chunks of packs with few of them are copied into new packs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardcast.backup.packs import PACK_SIZE, Pack, PackWriter
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.chunk_sets import ChunkSet
from shardcast.backup.server.chunk_table import place_of
from shardcast.backup.server.pack_use import PackUse
from shardcast.backup.server.runs import next_run
from shardcast.backup.wire import MAX_PACK
from shardcast.disk_errors import disk_errors

log = logging.getLogger(__name__)

_PART = 1 << 20
"""Bytes of a pack written at a time."""
_LEFT_FREE = 2 * MAX_PACK
"""Bytes of the disk left free for backups under way."""


@dataclass(frozen=True)
class Rewritten:
    """Result of a rewriting.

    Attributes:
        packs: packs whose needed chunks were copied.
        bytes: bytes freed by deleting these packs.
    """

    packs: int = 0
    bytes: int = 0

    def __add__(self, other: Rewritten) -> Rewritten:
        return Rewritten(self.packs + other.packs, self.bytes + other.bytes)


@dataclass(frozen=True)
class _LiveChunk:
    """A chunk to copy: id and location."""

    id: bytes
    pack: int
    digest: bytes
    offset: int
    length: int


async def rewrite_packs(
    store: BackupStore, client: int, packs: Sequence[PackUse], needed: ChunkSet
) -> Rewritten:
    """Copy the needed chunks of packs into new packs, and condemn the old packs, while the disk has space.

    Args:
        store: the store.
        client: the client.
        packs: the client's packs to rewrite.
        needed: the chunks to copy; a chunk needed by a later snapshot stays in its pack.

    Raises:
        LocalDiskError: the disk failed.
    """
    done, group, filled = Rewritten(), list[int](), 0
    for use in packs:
        group.append(use.pack)
        filled += use.live
        if filled >= PACK_SIZE or use is packs[-1]:
            if not await asyncio.to_thread(_has_room, store.folder.packs):
                break
            done += await _rewrite(store, client, group, needed)
            group, filled = [], 0
    return done


async def _rewrite(store: BackupStore, client: int, packs: list[int], needed: ChunkSet) -> Rewritten:
    """Copy the live chunks of some packs into one new pack."""
    chunks = await store.database.read(_live_chunks, packs, needed)
    by_pack = dict[bytes, list[_LiveChunk]]()
    for chunk in chunks:
        by_pack.setdefault(chunk.digest, []).append(chunk)
    writer = PackWriter()
    for digest, inside in by_pack.items():
        file = store.pack_path(digest.hex())
        if await asyncio.to_thread(_is_right, file, digest):
            await asyncio.to_thread(_copy, file, inside, writer)
        else:
            log.error("%s is damaged, and stays as it is; run `shardcast backup check --read-data`", file)
            packs = [pack for pack in packs if pack != inside[0].pack]
    if not packs:
        return Rewritten()
    new = writer.finish()
    if new.chunks:
        await store.receive_pack(client, None, new.sha256, len(new.data), _parts(new))
    freed = await store.database.write(_move, client, packs, new, store.clock())
    return Rewritten(len(packs), freed - (len(new.data) if new.chunks else 0))


def _move(database: sqlite3.Connection, client: int, packs: list[int], new: Pack, now: float) -> int:
    """Move copied chunks to the new pack in the database, condemn the old packs, and return their bytes.

    A chunk needed by a later snapshot stays in an old pack, and the sweep spares this pack.
    """
    row = database.execute(
        "SELECT number FROM pack WHERE client = ? AND digest = ? AND state = 'whole'",
        (client, bytes.fromhex(new.sha256)),
    ).fetchone()
    if row is not None:
        marks = ",".join("?" * len(packs))
        database.executemany(
            "UPDATE chunk SET pack = ?, offset = ?, length = ? "
            f"WHERE client = ? AND id = ? AND pack IN ({marks})",
            ((row[0], chunk.offset, chunk.length, client, chunk.id, *packs) for chunk in new.chunks),
        )
    run, freed = next_run(database), 0
    for pack in packs:
        (size,) = database.execute("SELECT size FROM pack WHERE number = ?", (pack,)).fetchone()
        condemned = database.execute(
            "UPDATE pack SET state = 'condemned', condemned_at = ?, condemned_run = ? "
            "WHERE number = ? AND state = 'whole'",
            (now, run, pack),
        )
        freed += size if condemned.rowcount else 0
    return freed


def _live_chunks(database: sqlite3.Connection, packs: list[int], needed: ChunkSet) -> list[_LiveChunk]:
    """Return the needed chunks of packs, in the order of their offsets."""
    marks = ",".join("?" * len(packs))
    rows = database.execute(
        "SELECT chunk.number, id, pack, digest, offset, length FROM chunk "
        f"JOIN pack ON pack.number = chunk.pack WHERE pack IN ({marks}) AND state = 'whole' "
        "ORDER BY pack, offset",
        packs,
    )
    return [_LiveChunk(*row[1:]) for row in rows if place_of(row[0]) in needed]


def _has_room(folder: Path) -> bool:
    """Return whether a pack can be written, and enough is left free."""
    return shutil.disk_usage(folder).free >= MAX_PACK + _LEFT_FREE


def _is_right(file: Path, digest: bytes) -> bool:
    """Return whether a pack's file has the pack's digest; blocks on the disk."""
    with disk_errors("could not read", file), file.open("rb") as pack:
        return hashlib.file_digest(pack, "sha256").digest() == digest


def _copy(file: Path, chunks: Sequence[_LiveChunk], writer: PackWriter) -> None:
    """Add chunks of a pack's file to a new pack; blocks on the disk."""
    with disk_errors("could not read", file), file.open("rb") as pack:
        for chunk in chunks:
            writer.add(chunk.id, os.pread(pack.fileno(), chunk.length, chunk.offset))


async def _parts(pack: Pack) -> AsyncIterator[bytes]:
    """Yield the bytes of a pack."""
    for start in range(0, len(pack.data), _PART):
        yield bytes(pack.data[start : start + _PART])
