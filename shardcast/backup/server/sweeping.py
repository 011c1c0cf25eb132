"""The second phase of pruning: delete condemned packs that no run counts on and no snapshot needs.

Each step is a transaction, and a kill between two of them loses nothing: first the rows of a pack go and its
file is listed as to be removed, then the file goes.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.chunk_sets import ChunkSet
from shardcast.backup.server.chunk_table import needed_set, place_of
from shardcast.backup.server.pack_table import discard, remove_discarded, withdraw_abandoned
from shardcast.backup.server.runs import oldest_run

GRACE_SECONDS = 600.0
"""Seconds from the condemnation of a pack to its deletion, for restores that read from it."""
_PACKS_AT_ONCE = 64
"""Packs in one transaction: others that write wait for it."""
_EVERY_RUN = 1 << 62
"""A number above those of all runs."""


@dataclass(frozen=True)
class Swept:
    """What a sweep deleted.

    Attributes:
        packs: packs.
        bytes: their bytes.
    """

    packs: int = 0
    bytes: int = 0

    def __add__(self, other: Swept) -> Swept:
        return Swept(self.packs + other.packs, self.bytes + other.bytes)


async def sweep(store: BackupStore, grace: float = GRACE_SECONDS, *, prune_is_dead: bool = False) -> Swept:
    """Delete the condemned packs that are due, and the files that killed uploads left.

    Args:
        store: the store.
        grace: seconds from a pack's condemnation to its deletion.
        prune_is_dead: whether no prune writes packs now, so that those it announced are left over.

    Raises:
        LocalDiskError: the database can't be written, or a file can't be removed.
        IntegrityError: a snapshot's list is damaged; nothing is deleted then.
    """
    write = store.database.write
    now = store.clock()
    await write(withdraw_abandoned, now, prune_is_dead=prune_is_dead)
    total, known = Swept(), dict[int, tuple[ChunkSet, int]]()
    for client in await store.database.read(_clients_with_due, now, grace):
        known[client] = await store.database.read(needed_set, client)
        while True:
            swept = await write(_forget_packs, client, known[client], now, grace)
            if swept is None:
                break
            total += swept
    while await write(remove_discarded, store.remove_file, _PACKS_AT_ONCE):
        pass
    return total


def _clients_with_due(database: sqlite3.Connection, now: float, grace: float) -> list[int]:
    """Return the clients that have packs to sweep."""
    rows = database.execute(
        "SELECT DISTINCT client FROM pack WHERE state = 'condemned' AND condemned_at <= ?", (now - grace,)
    )
    return [client for (client,) in rows]


def _forget_packs(
    database: sqlite3.Connection, client: int, known: tuple[ChunkSet, int], now: float, grace: float
) -> Swept | None:
    """Delete the rows of some condemned packs of a client, and list their files as to be removed.

    A pack with a chunk that a snapshot needs is whole again. This check, inside the transaction, keeps
    every snapshot whole, whatever condemned the pack.

    Args:
        database: inside a transaction that writes.
        client: the client.
        known: the chunks that its snapshots needed, and the number of the newest snapshot then.
        now: seconds since 1970.
        grace: seconds from a pack's condemnation to its deletion.

    Returns:
        What was deleted; None where no pack is due.
    """
    database.execute("DELETE FROM run WHERE expires <= ?", (now,))  # a clock set back must not revive them
    oldest = oldest_run(database, now)
    due = database.execute(
        "SELECT number, digest, size FROM pack "
        "WHERE client = ? AND state = 'condemned' AND condemned_at <= ? AND condemned_run <= ? LIMIT ?",
        (client, now - grace, _EVERY_RUN if oldest is None else oldest, _PACKS_AT_ONCE),
    ).fetchall()
    if not due:
        return None
    needed = ChunkSet()
    needed.unite(known[0])
    needed.unite(needed_set(database, client, known[1])[0])
    deleted = Swept()
    for pack, digest, size in due:
        chunks = database.execute("SELECT number FROM chunk WHERE pack = ?", (pack,)).fetchall()
        if any(place_of(number) in needed for (number,) in chunks):
            database.execute(
                "UPDATE pack SET state = 'whole', condemned_at = NULL, condemned_run = NULL WHERE number = ?",
                (pack,),
            )
            continue
        database.execute("DELETE FROM chunk WHERE pack = ?", (pack,))
        database.execute("DELETE FROM pack WHERE number = ?", (pack,))
        discard(database, digest)
        deleted += Swept(1, size)
    return deleted
