"""Rewriting: the needed chunks of packs with few of them are copied into new packs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from shardcast.backup.packs import MAX_CHUNKS, PACK_SIZE, Pack, PackWriter
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.chunk_table import NeededChunks, marks
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
        bytes: bytes of these packs, less the bytes of the new ones.
    """

    packs: int = 0
    bytes: int = 0

    def __add__(self, other: Rewritten) -> Rewritten:
        return Rewritten(self.packs + other.packs, self.bytes + other.bytes)


@dataclass(frozen=True)
class _LiveChunk:
    """A chunk to copy: its id and location, and its numbers in the database, one for each client that has it.

    Chunks are told by location, never by id: a hostile client can give an id to other bytes.
    """

    id: bytes
    pack: int
    digest: bytes
    offset: int
    length: int
    numbers: list[int]


async def rewrite_packs(store: BackupStore, packs: Sequence[PackUse], needed: NeededChunks) -> Rewritten:
    """Copy the needed chunks of packs into new packs, and condemn the old packs, while the disk has space.

    Each client's chunks go to a pack of their own: it counts for the same client, and holds no others' bytes.

    Args:
        store: the store.
        packs: the packs to rewrite.
        needed: the chunks to copy; a chunk needed by a later snapshot stays in its pack.

    Raises:
        LocalDiskError: the disk failed.
    """
    done = Rewritten()
    for client, uses in groupby(
        sorted(packs, key=lambda use: (use.client, use.pack)), lambda use: use.client
    ):
        for group in _of_one_new_pack(uses):
            if not await asyncio.to_thread(_has_room, store.folder.packs):
                return done
            done += await _rewrite(store, client, group, needed)
    return done


def _of_one_new_pack(uses: Iterable[PackUse]) -> Iterator[list[int]]:
    """Yield the numbers of packs whose needed chunks go to one new pack, until none is left."""
    group, size, chunks = list[int](), 0, 0
    for use in uses:
        if group and (size + use.live > PACK_SIZE or chunks + use.chunks > MAX_CHUNKS):
            yield group
            group, size, chunks = [], 0, 0
        group.append(use.pack)
        size, chunks = size + use.live, chunks + use.chunks
    if group:
        yield group


async def _rewrite(store: BackupStore, client: int, packs: list[int], needed: NeededChunks) -> Rewritten:
    """Copy the needed chunks of some packs into one new pack, and condemn the old ones.

    A damaged pack is logged, and stays as it is.
    """
    chunks = await store.database.read(_live_chunks, packs, needed)
    by_pack = dict[bytes, list[_LiveChunk]]()
    for chunk in chunks:
        by_pack.setdefault(chunk.digest, []).append(chunk)
    writer, copied = PackWriter(), list[_LiveChunk]()
    for digest, inside in by_pack.items():
        file = store.pack_path(digest.hex())
        if await asyncio.to_thread(_is_right, file, digest):
            await asyncio.to_thread(_copy, file, inside, writer)
            copied += inside
        else:
            log.error(
                "%s is damaged, and stays as it is; run `shardcast backup check --store_dir %s --read-data`",
                file,
                store.folder.root,
            )
            packs = [pack for pack in packs if pack != inside[0].pack]
    if not packs:
        return Rewritten()
    new = writer.finish()
    if new.chunks:
        await store.receive_pack(client, None, new.sha256, len(new.data), _parts(new))
    freed = await store.database.write(_move, client, packs, new, copied, store.clock())
    return Rewritten(len(packs), freed - (len(new.data) if new.chunks else 0))


def _move(
    database: sqlite3.Connection,
    client: int,
    packs: list[int],
    new: Pack,
    copied: Sequence[_LiveChunk],
    now: float,
) -> int:
    """Move copied chunks to the new pack in the database, condemn the old packs, and return their bytes.

    A chunk needed by a later snapshot stays in an old pack, and the sweep spares this pack.
    """
    row = database.execute(
        "SELECT number FROM pack WHERE client = ? AND digest = ? AND state = 'whole'",
        (client, bytes.fromhex(new.sha256)),
    ).fetchone()
    if row is not None:
        database.executemany(
            "UPDATE chunk SET pack = ?, offset = ?, length = ? "
            f"WHERE number = ? AND pack IN ({marks(packs)})",
            (
                (row[0], there.offset, there.length, number, *packs)
                for chunk, there in zip(copied, new.chunks, strict=True)
                for number in chunk.numbers
            ),
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


def _live_chunks(database: sqlite3.Connection, packs: list[int], needed: NeededChunks) -> list[_LiveChunk]:
    """Return the needed chunks of packs, in the order of their offsets."""
    rows = database.execute(
        "SELECT chunk.number, id, pack, digest, offset, length FROM chunk "
        f"JOIN pack ON pack.number = chunk.pack WHERE pack IN ({marks(packs)}) AND state = 'whole' "
        "ORDER BY pack, offset",
        packs,
    )
    found = list[_LiveChunk]()
    for number, chunk, pack, digest, offset, length in rows:
        if number not in needed:
            continue
        if not found or (found[-1].pack, found[-1].offset) != (pack, offset):
            found.append(_LiveChunk(chunk, pack, digest, offset, length, []))
        found[-1].numbers.append(number)
    return found


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
