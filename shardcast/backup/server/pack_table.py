"""Packs of each client in the database: a row is added before the pack's file, and removed before the file.

A kill at any moment leaves no file without a row: a pack announced by an ended run is withdrawn with its
file, and a file to be removed stays listed until removed.
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
"""A function that removes the file of a pack with this digest."""


def announce_pack(
    database: sqlite3.Connection,
    client: int,
    run: ActiveRun | None,
    digest: bytes,
    size: int,
    default_quota: int | None = None,
) -> int:
    """Record an arriving pack before its file is written, and return the pack's number.

    Args:
        database: inside a transaction.
        client: the client.
        run: the run that sends the pack; None for a pack written by prune, exempt from quotas.
        digest: the pack's SHA-256.
        size: the pack's bytes.
        default_quota: the quota of clients without one of their own; None for no bound.

    Raises:
        BackupRefused: the client's quota has no room for the pack.
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
    """Check the client's quota before more bytes are stored.

    Raises:
        BackupRefused: the quota has no room for ``more`` bytes.
    """
    (own,) = database.execute("SELECT quota FROM client WHERE number = ?", (client,)).fetchone()
    quota = default_quota if own is None else own
    if quota is None:
        return
    used = used_bytes(database, client)
    if used + more > quota:
        raise BackupRefused(
            f"the client's quota of {format_size(quota)} has no room for {format_size(more)} more "
            f"({format_size(used)} are used); forget snapshots and prune at the server, or raise the quota "
            "there by `shardcast backup clients CLIENT --quota`",
            status=507,
        )


def used_bytes(database: sqlite3.Connection, client: int) -> int:
    """Return the bytes of a client's packs and snapshots; arriving and condemned packs count, lost ones not.

    A chunk shared between clients counts for the client with the chunk's pack.
    """
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
    """Record the file of an announced pack as written, and return the number of chunks not available before.

    If the client has the same pack already, the announcement is dropped, and the known pack becomes whole.

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
    """Withdraw the announcement of a pack, and list the file for removal; an accepted pack stays."""
    withdrawn = database.execute("DELETE FROM pack WHERE number = ? AND state = 'arriving'", (pack,))
    if withdrawn.rowcount:
        discard(database, digest)


def withdraw_abandoned(database: sqlite3.Connection, now: float, *, prune_is_dead: bool) -> None:
    """Withdraw the packs announced by ended runs; with ``prune_is_dead``, also those announced by a prune."""
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
    """Remove the files listed for removal, except files needed again by a pack of the same digest.

    An arriving pack is announced before its file is written, and this transaction excludes announcements, so
    no arriving file is removed.

    Args:
        database: inside a transaction that writes.
        remove_file: removes a file; a missing file is no error.
        most: maximum number of files.

    Returns:
        The number of files taken from the list; if equal to ``most``, more may be listed.
    """
    listed = [digest for (digest,) in database.execute("SELECT digest FROM discard LIMIT ?", (most,))]
    for digest in listed:
        if database.execute("SELECT 1 FROM pack WHERE digest = ? LIMIT 1", (digest,)).fetchone() is None:
            remove_file(digest)
        database.execute("DELETE FROM discard WHERE digest = ?", (digest,))
    return len(listed)
