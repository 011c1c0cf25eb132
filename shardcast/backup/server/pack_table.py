"""The packs of each client in the database: announced before their file is there, forgotten before it goes.

A kill at any moment leaves no file without a row: an announcement whose run has ended is withdrawn with its
file, and a file that is to be removed stays listed until it is gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from shardcast.backup.packs import PackedChunk
from shardcast.backup.server.chunk_table import add_chunks
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.runs import ActiveRun
from shardcast.sizes import format_size

RemoveFile = Callable[[bytes], object]
"""A function that removes the file of a pack, by its digest."""


def announce_pack(
    database: sqlite3.Connection,
    client: int,
    run: ActiveRun | None,
    digest: bytes,
    size: int,
    default_quota: int | None = None,
) -> int:
    """Record that a pack arrives, before its file is written, and return its number.

    Args:
        database: inside a transaction.
        client: the client.
        run: the run that brings it; None for one that prune writes, which no quota bounds.
        digest: its SHA-256.
        size: its bytes.
        default_quota: the quota of clients without one of their own; None for no bound.

    Raises:
        BackupRefused: the client's quota has no room for it.
    """
    if run is not None:
        check_quota(database, client, size, default_quota)
    added = database.execute(
        "INSERT INTO pack (client, digest, size, state, run) VALUES (?, ?, ?, 'arriving', ?)",
        (client, digest, size, run.number if run else None),
    )
    assert added.lastrowid
    return added.lastrowid


def check_quota(database: sqlite3.Connection, client: int, more: int, default_quota: int | None) -> None:
    """Check that a client may keep more bytes.

    Raises:
        BackupRefused: its quota has no room for them.
    """
    (own,) = database.execute("SELECT quota FROM client WHERE number = ?", (client,)).fetchone()
    quota = default_quota if own is None else own
    if quota is None:
        return
    used = used_bytes(database, client)
    if used + more > quota:
        raise BackupRefused(
            f"the client's quota of {format_size(quota)} is used up ({format_size(used)}); "
            "forget snapshots and prune, or raise it by `shardcast backup clients --quota`",
            status=507,
        )


def used_bytes(database: sqlite3.Connection, client: int) -> int:
    """Return the bytes that a client's packs and snapshots take."""
    (packs,) = database.execute(
        "SELECT coalesce(sum(size), 0) FROM pack WHERE client = ? AND state <> 'lost'", (client,)
    ).fetchone()
    (records,) = database.execute(
        "SELECT coalesce(sum(length(record) + length(needs) + length(head)), 0) FROM snapshot "
        "WHERE client = ?",
        (client,),
    ).fetchone()
    return int(packs) + int(records)


def accept_pack(
    database: sqlite3.Connection, client: int, pack: int, digest: bytes, chunks: Sequence[PackedChunk]
) -> int:
    """Record that the file of an announced pack is on the disk, and return how many chunks are new.

    Raises:
        BackupRefused: the announcement was withdrawn, since its run has ended.
    """
    known = database.execute(
        "SELECT number, state FROM pack WHERE client = ? AND digest = ? AND state <> 'arriving'",
        (client, digest),
    ).fetchone()
    if known is None:
        accepted = database.execute(
            "UPDATE pack SET state = 'whole' WHERE number = ? AND state = 'arriving'", (pack,)
        )
        if not accepted.rowcount:
            raise BackupRefused("the backup run of this pack has ended; begin a new one", status=404)
        return add_chunks(database, client, pack, chunks)
    database.execute("DELETE FROM pack WHERE number = ? AND state = 'arriving'", (pack,))
    database.execute(
        "UPDATE pack SET state = 'whole', condemned_at = NULL, condemned_run = NULL WHERE number = ?",
        (known[0],),
    )
    mended = add_chunks(database, client, known[0], chunks)
    return mended if known[1] == "whole" else len(chunks)


def withdraw_pack(database: sqlite3.Connection, pack: int, digest: bytes) -> None:
    """Record that an announced pack does not come; its file is to be removed, unless another row has it."""
    withdrawn = database.execute("DELETE FROM pack WHERE number = ? AND state = 'arriving'", (pack,))
    if withdrawn.rowcount:
        discard(database, digest)


def withdraw_abandoned(database: sqlite3.Connection, now: float, *, prune_is_dead: bool) -> None:
    """Withdraw the announcements whose run has ended, and those that a killed prune left."""
    rows = database.execute(
        "SELECT number, digest FROM pack WHERE state = 'arriving' AND "
        "CASE WHEN run IS NULL THEN ? ELSE run NOT IN (SELECT number FROM run WHERE expires > ?) END",
        (prune_is_dead, now),
    ).fetchall()
    for number, digest in rows:
        withdraw_pack(database, number, digest)


def discard(database: sqlite3.Connection, digest: bytes) -> None:
    """List the file of a pack as to be removed."""
    database.execute("INSERT OR IGNORE INTO discard (digest) VALUES (?)", (digest,))


def remove_discarded(database: sqlite3.Connection, remove_file: RemoveFile, most: int) -> int:
    """Remove files that are listed as to be removed, unless a pack has their digest again.

    A pack that arrives is announced before its file is written, and this transaction excludes announcements:
    no file that arrives is removed.

    Args:
        database: inside a transaction that writes.
        remove_file: removes a file; one that is gone is no error.
        most: files at most.

    Returns:
        The number of files that were listed, of which some more may be.
    """
    listed = [digest for (digest,) in database.execute("SELECT digest FROM discard LIMIT ?", (most,))]
    for digest in listed:
        if database.execute("SELECT 1 FROM pack WHERE digest = ? LIMIT 1", (digest,)).fetchone() is None:
            remove_file(digest)
        database.execute("DELETE FROM discard WHERE digest = ?", (digest,))
    return len(listed)
