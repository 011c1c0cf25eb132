"""The check of a whole store: damaged and lost packs, and the snapshots that need their chunks.

Damage is recorded in the database. The next backup of the same bytes sends the damaged chunks again.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.chunk_sets import ChunkSet
from shardcast.backup.server.chunk_table import bad_chunks, place_of
from shardcast.disk_errors import disk_errors
from shardcast.errors import IntegrityError
from shardcast.file_identity import FileIdentity

_BATCH = 1000
"""Packs listed at a time."""
_PART = 1 << 20
"""Bytes read at a time."""
WHOLE, DAMAGED, LOST, CONDEMNED = "whole", "damaged", "lost", "condemned"


@dataclass(frozen=True)
class HurtSnapshot:
    """A snapshot that lacks chunks.

    Attributes:
        client: the client's name.
        id: the snapshot's id.
        chunks: number of damaged or lost chunks.
    """

    client: str
    id: str
    chunks: int


@dataclass
class StoreCheck:
    """Findings of a check.

    Attributes:
        packs: number of checked packs.
        bytes_read: bytes read and digested.
        damaged: paths of packs with wrong bytes or a wrong size, or on an unreadable part of the disk.
        lost: paths of packs without a file.
        mended: number of packs recorded as damaged or lost, now right again.
        unknown_files: files among the packs that belong to no client.
        database: errors in the database.
        hurt: the snapshots that lack chunks.
    """

    packs: int = 0
    bytes_read: int = 0
    damaged: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    mended: int = 0
    unknown_files: int = 0
    database: list[str] = field(default_factory=list)
    hurt: list[HurtSnapshot] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether no damage was found; unknown files are none."""
        return not (self.damaged or self.lost or self.database or self.hurt)


@dataclass(frozen=True)
class _Listed:
    """A pack in the database."""

    number: int
    digest: bytes
    size: int
    state: str


async def check_store(
    store: BackupStore,
    reads: Callable[[int], bool],
    progress: Callable[[StoreCheck], object] = lambda found: None,
) -> StoreCheck:
    """Check every pack of a store, and record damage; other processes can work on the store meanwhile.

    Args:
        store: the store.
        reads: whether to read and digest the pack of a number; else only its size is checked. Packs
            recorded as damaged or lost are always read.
        progress: called after each pack.

    Raises:
        LocalDiskError: the disk failed.
    """
    found = StoreCheck(database=await store.database.read(_check_tables))
    async for pack in _packs(store):
        await _check_pack(store, pack, reads(pack.number), found)
        progress(found)
    async for digest in store.packs.digests():
        if not await store.database.read(_is_known, bytes.fromhex(digest)):
            found.unknown_files += 1
    try:
        found.hurt = await store.database.read(lambda database: list(_hurt_snapshots(database)))
    except IntegrityError as error:
        found.database.append(str(error))
    return found


def subset(part: int, parts: int) -> Callable[[int], bool]:
    """Return the choice of packs of ``--read-data-subset part/parts``: every ``parts``-th."""
    return lambda number: number % parts == part - 1


async def _check_pack(store: BackupStore, pack: _Listed, read: bool, found: StoreCheck) -> None:
    """Check a pack, record a changed state in the database, and add the result to ``found``.

    A file replaced meanwhile is checked again; a pack deleted meanwhile is not counted.
    """
    file = store.pack_path(pack.digest.hex())
    read = read or pack.state in (DAMAGED, LOST)
    while True:
        state, identity = await asyncio.to_thread(_state_of, file, pack, read)
        if state == pack.state or (state == WHOLE and pack.state == CONDEMNED):
            break
        outcome = await store.database.write(_record_state, file, pack, state, identity)
        if outcome is _Outcome.PRUNED:
            return
        if outcome is _Outcome.RECORDED:
            break
    found.packs += 1
    found.bytes_read += pack.size if read and identity else 0
    if state == WHOLE:
        found.mended += pack.state in (DAMAGED, LOST)
    else:
        (found.damaged if state == DAMAGED else found.lost).append(str(file))


def _state_of(file: Path, pack: _Listed, read: bool) -> tuple[str, FileIdentity | None]:
    """Return whether a pack's file is whole, damaged or lost, and the file's identity; blocks on the disk.

    A failing disk (EIO) counts as damage. The identity is None for a file that can't be opened.

    Raises:
        LocalDiskError: the file cannot be read for another reason than a failing disk.
    """
    try:
        with file.open("rb", buffering=0) as opened:
            found = os.fstat(opened.fileno())
            right = found.st_size == pack.size and (not read or _digest(opened.fileno()) == pack.digest)
            return (WHOLE if right else DAMAGED), FileIdentity.from_stat(found)
    except FileNotFoundError:
        return LOST, None
    except OSError as error:
        if error.errno == errno.EIO:
            return DAMAGED, None
        with disk_errors("could not read", file):
            raise


def _digest(descriptor: int) -> bytes:
    """Return the SHA-256 of an open file."""
    digest, position = hashlib.sha256(), 0
    while part := os.pread(descriptor, _PART, position):
        digest.update(part)
        position += len(part)
    return digest.digest()


class _Outcome(Enum):
    """Result of recording a pack's state."""

    RECORDED = "recorded"
    REPLACED = "the file was replaced since, and must be looked at again"
    PRUNED = "the pack was deleted meanwhile"


def _record_state(
    database: sqlite3.Connection, file: Path, pack: _Listed, state: str, identity: FileIdentity | None
) -> _Outcome:
    """Record the state of a pack, unless the file was replaced or the pack deleted meanwhile."""
    if database.execute("SELECT 1 FROM pack WHERE number = ?", (pack.number,)).fetchone() is None:
        return _Outcome.PRUNED
    try:
        now: FileIdentity | None = FileIdentity.from_stat(file.stat())
    except FileNotFoundError:
        now = None
    if now != identity and (state == LOST or identity is not None):
        return _Outcome.REPLACED
    before = "'damaged', 'lost'" if state == WHOLE else "'whole', 'damaged', 'lost', 'condemned'"
    database.execute(
        "UPDATE pack SET state = ?, condemned_at = NULL, condemned_run = NULL "
        f"WHERE number = ? AND state IN ({before})",
        (state, pack.number),
    )
    return _Outcome.RECORDED


async def _packs(store: BackupStore) -> AsyncIterator[_Listed]:
    """Yield the packs, in batches from the database."""
    last = 0
    while batch := await store.database.read(_packs_after, last):
        for pack in batch:
            yield pack
        last = batch[-1].number


def _packs_after(database: sqlite3.Connection, number: int) -> list[_Listed]:
    """Return the next packs by number."""
    rows = database.execute(
        "SELECT number, digest, size, state FROM pack WHERE number > ? AND state <> 'arriving' "
        "ORDER BY number LIMIT ?",
        (number, _BATCH),
    )
    return [_Listed(*row) for row in rows]


def _is_known(database: sqlite3.Connection, digest: bytes) -> bool:
    """Return whether a file belongs to a pack, or is to be removed."""
    return (
        database.execute(
            "SELECT 1 FROM pack WHERE digest = ? UNION ALL SELECT 1 FROM discard WHERE digest = ? LIMIT 1",
            (digest, digest),
        ).fetchone()
        is not None
    )


def _check_tables(database: sqlite3.Connection) -> list[str]:
    """Return the errors that SQLite finds in the database."""
    words = [text for (text,) in database.execute("PRAGMA quick_check(20)") if text != "ok"]
    broken = database.execute("PRAGMA foreign_key_check").fetchall()
    return [*words, *(f"a row of {row[0]} names a missing row of {row[2]}" for row in broken[:20])]


def _hurt_snapshots(database: sqlite3.Connection) -> Iterator[HurtSnapshot]:
    """Yield the snapshots with chunks that are damaged, lost, or missing in the database.

    Raises:
        IntegrityError: a snapshot's list is damaged.
    """
    for client, name in database.execute("SELECT number, name FROM client ORDER BY number").fetchall():
        bad = ChunkSet(chunk.number for chunk in bad_chunks(database, client))
        known = _known_chunks(database, client)
        rows = database.execute("SELECT id, needs FROM snapshot WHERE client = ? ORDER BY number", (client,))
        with closing(rows):
            for snapshot, data in rows:
                needs = ChunkSet.decode(data, snapshot)
                lacking = needs.common(bad) + len(needs) - needs.common(known)
                if lacking:
                    yield HurtSnapshot(name, snapshot, lacking)


def _known_chunks(database: sqlite3.Connection, client: int) -> ChunkSet:
    """Return the chunks of a client that have a row in the database."""
    rows = database.execute("SELECT number FROM chunk WHERE client = ?", (client,))
    return ChunkSet(place_of(number) for (number,) in rows)


def to_json(found: StoreCheck) -> dict[str, Any]:
    """Return the findings of a check as JSON."""
    return {
        **{name: getattr(found, name) for name in ("packs", "bytes_read", "damaged", "lost", "mended")},
        "unknown_files": found.unknown_files,
        "database": found.database,
        "hurt": [vars(hurt) for hurt in found.hurt],
    }
