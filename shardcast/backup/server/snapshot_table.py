"""The snapshots of each client: committed when every chunk is there, listed, read, forgotten."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from shardcast.backup.server.chunk_sets import ChunkSet
from shardcast.backup.server.chunk_table import bad_chunks
from shardcast.backup.server.pack_table import check_quota
from shardcast.backup.server.refusals import BackupRefused, ChunksMissing
from shardcast.backup.server.runs import ActiveRun, renew_run
from shardcast.backup.wire import MAX_IDS
from shardcast.json_text import parse_json

_ID_DIGITS = 16
"""Hex digits of a snapshot's id."""


@dataclass(frozen=True)
class NewSnapshot:
    """A snapshot to commit.

    Attributes:
        head: the fields shown in lists: host, path, tags and sizes.
        record: the client's record, opaque to the server.
        needs: the chunks needed.
    """

    head: dict[str, Any]
    record: bytes
    needs: ChunkSet


def commit_snapshot(
    database: sqlite3.Connection,
    run: ActiveRun,
    snapshot: NewSnapshot,
    now: float,
    default_quota: int | None,
) -> tuple[str, float]:
    """Add a snapshot, and return the id and the time of arrival.

    A run that commits the same record again, after its first answer was lost, gets the same snapshot.

    During a run, no chunk reported as available to the run is deleted; chunks found damaged meanwhile are
    missing.

    Args:
        database: inside a transaction that writes.
        run: the run that sent the snapshot.
        snapshot: the snapshot.
        now: time of arrival, in seconds since 1970.
        default_quota: the quota of clients without one of their own.

    Raises:
        BackupRefused: the run has ended, or the client's quota has no room.
        ChunksMissing: chunks are damaged or lost.
    """
    renew_run(database, run, now)
    name = blake3(snapshot.record + run.id.encode()).hexdigest()[:_ID_DIGITS]
    known = database.execute(
        "SELECT arrived FROM snapshot WHERE id = ? AND client = ?", (name, run.client)
    ).fetchone()
    if known is not None:
        return name, known[0]
    missing = [chunk.id for chunk in bad_chunks(database, run.client) if chunk.number in snapshot.needs]
    if missing:
        raise ChunksMissing.of(missing[:MAX_IDS])
    needs, head = snapshot.needs.encode(), json.dumps(snapshot.head, separators=(",", ":"))
    check_quota(database, run.client, len(snapshot.record) + len(needs) + len(head), default_quota)
    database.execute(
        "INSERT INTO snapshot (id, client, arrived, head, record, needs) VALUES (?, ?, ?, ?, ?, ?)",
        (name, run.client, now, head, snapshot.record, needs),
    )
    return name, now


def list_snapshots(database: sqlite3.Connection, client: int) -> Iterator[dict[str, Any]]:
    """Yield the listed fields of a client's snapshots, oldest first."""
    rows = database.execute(
        "SELECT id, arrived, head FROM snapshot WHERE client = ? ORDER BY number", (client,)
    )
    for name, arrived, head in rows:
        yield {"id": name, "arrived": arrived, **parse_json(head)}


def read_record(database: sqlite3.Connection, client: int, name: str) -> bytes:
    """Return the record of a client's snapshot.

    Raises:
        BackupRefused: the client has no such snapshot.
    """
    return bytes(_column(database, client, name, "record"))


def read_needs(database: sqlite3.Connection, client: int, name: str) -> ChunkSet:
    """Return the chunks needed by a client's snapshot.

    Raises:
        BackupRefused: the client has no such snapshot.
        IntegrityError: the snapshot's list of chunks is damaged.
    """
    return ChunkSet.decode(_column(database, client, name, "needs"), name)


def damaged_chunks(database: sqlite3.Connection, client: int, name: str) -> list[bytes]:
    """Return the ids of a snapshot's chunks known to be damaged or lost, ``MAX_IDS`` at most.

    Raises:
        BackupRefused: the client has no such snapshot.
        IntegrityError: the snapshot's list of chunks is damaged.
    """
    needs = read_needs(database, client, name)
    return [chunk.id for chunk in bad_chunks(database, client) if chunk.number in needs][:MAX_IDS]


def forget_snapshots(
    database: sqlite3.Connection, client: int, names: Sequence[str], youngest: float
) -> None:
    """Delete snapshots of a client, all of them or none.

    Args:
        database: inside a transaction that writes.
        client: the client.
        names: the ids of the snapshots.
        youngest: latest arrival of a snapshot that may be deleted, in seconds since 1970.

    Raises:
        BackupRefused: the client has no such snapshot, or one is too young.
    """
    for name in dict.fromkeys(names):
        if _column(database, client, name, "arrived") > youngest:
            raise BackupRefused(
                f"snapshot {name} is younger than --min-age of this server; nothing was deleted",
                status=409,
            )
        database.execute("DELETE FROM snapshot WHERE id = ? AND client = ?", (name, client))


def arrivals(database: sqlite3.Connection, client: int, since: float) -> list[float]:
    """Return when a client's snapshots arrived, from a time on, in seconds since 1970."""
    rows = database.execute("SELECT arrived FROM snapshot WHERE client = ? AND arrived >= ?", (client, since))
    return [arrived for (arrived,) in rows]


def _column(database: sqlite3.Connection, client: int, name: str, column: str) -> Any:
    """Return a column of a client's snapshot.

    Raises:
        BackupRefused: the client has no such snapshot.
    """
    row = database.execute(
        f"SELECT {column} FROM snapshot WHERE id = ? AND client = ?", (name, client)
    ).fetchone()
    if row is None:
        raise BackupRefused(f"this client has no snapshot {name}; nothing was changed", status=404)
    return row[0]
