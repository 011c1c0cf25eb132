"""The second phase of pruning: delete condemned packs that no run counts on and no snapshot needs.

Each step is a transaction, and a kill between two of them loses nothing: first the rows of a pack are deleted
and the file is listed for removal, then the file is removed.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from shardcast.backup.server.accounts import client_groups
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.chunk_table import NeededChunks, marks
from shardcast.backup.server.pack_table import discard, remove_discarded, withdraw_abandoned
from shardcast.backup.server.runs import oldest_run

GRACE_SECONDS = 600.0
"""Seconds from the condemnation of a pack to its deletion, for restores that read the pack."""
_PACKS_AT_ONCE = 64
"""Packs deleted in one transaction; other writers wait for its end."""
_EVERY_RUN = 1 << 62
"""A number above those of all runs."""


@dataclass(frozen=True)
class Swept:
    """Result of a sweep.

    Attributes:
        packs: number of deleted packs.
        bytes: bytes of these packs.
    """

    packs: int = 0
    bytes: int = 0

    def __add__(self, other: Swept) -> Swept:
        return Swept(self.packs + other.packs, self.bytes + other.bytes)


async def sweep(store: BackupStore, grace: float = GRACE_SECONDS, *, prune_is_dead: bool = False) -> Swept:
    """Delete the condemned packs after their grace time, and the files of killed uploads.

    Args:
        store: the store.
        grace: seconds from a pack's condemnation to its deletion.
        prune_is_dead: whether no prune writes packs now, so packs announced by a prune are leftovers.

    Raises:
        LocalDiskError: the database cannot be written, or a file cannot be removed.
        IntegrityError: a snapshot's list is damaged; the packs of its client, of those it shares with, and
            of the clients after them stay.
    """
    write = store.database.write
    now = store.clock()
    await write(withdraw_abandoned, now, prune_is_dead=prune_is_dead)
    total = Swept()
    for clients in await store.database.read(_groups_with_due, now, grace):
        needed = await store.database.read(NeededChunks, clients)
        while (swept := await write(_forget_packs, needed, now, grace)) is not None:
            total += swept
    while await write(remove_discarded, store.remove_file, _PACKS_AT_ONCE):
        pass
    return total


def _groups_with_due(database: sqlite3.Connection, now: float, grace: float) -> list[list[int]]:
    """Return the groups of clients with packs to sweep."""
    rows = database.execute(
        "SELECT DISTINCT client FROM pack WHERE state = 'condemned' AND condemned_at <= ?", (now - grace,)
    )
    due = {client for (client,) in rows}
    return [clients for clients in client_groups(database) if not due.isdisjoint(clients)]


def _forget_packs(
    database: sqlite3.Connection, needed: NeededChunks, now: float, grace: float
) -> Swept | None:
    """Delete the rows of some condemned packs, and list their files for removal.

    A pack with a needed chunk becomes whole again. This check, inside the transaction, protects every
    snapshot, whatever condemned the pack.

    Args:
        database: inside a transaction that writes.
        needed: chunks needed by the snapshots of the packs' clients; newer snapshots are added.
        now: seconds since 1970.
        grace: seconds from a pack's condemnation to its deletion.

    Returns:
        The deleted packs; None if no pack is due.
    """
    database.execute("DELETE FROM run WHERE expires <= ?", (now,))  # a clock set back must not revive them
    oldest = oldest_run(database, now)
    due = database.execute(
        "SELECT number, digest, size FROM pack "
        f"WHERE client IN ({marks(needed.clients)}) "
        "AND state = 'condemned' AND condemned_at <= ? AND condemned_run <= ? LIMIT ?",
        (*needed.clients, now - grace, _EVERY_RUN if oldest is None else oldest, _PACKS_AT_ONCE),
    ).fetchall()
    if not due:
        return None
    needed.read_newer(database)
    deleted = Swept()
    for pack, digest, size in due:
        chunks = database.execute("SELECT number FROM chunk WHERE pack = ?", (pack,)).fetchall()
        if any(number in needed for (number,) in chunks):
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
