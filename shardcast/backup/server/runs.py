"""Runs of backups: chunks reported as available to a run stay until the run ends or its lease expires."""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import dataclass

from shardcast.backup.server.refusals import BackupRefused

LEASE_SECONDS = 900.0
"""Seconds without a request after which a run ends."""
_RENEWED_BELOW = 600.0
"""Remaining seconds of a lease below which a request renews the lease: not every request writes to the disk.
"""
MAX_RUNS = 64
"""Runs of one client at a time."""


@dataclass(frozen=True)
class ActiveRun:
    """A run under way.

    Attributes:
        id: unique name, in hex.
        number: number; later runs have higher ones.
        client: the number of the client.
        expires: end of the lease, in seconds since 1970.
    """

    id: str
    number: int
    client: int
    expires: float

    def needs_renewal(self, now: float) -> bool:
        """Return whether the lease is to be renewed by a request now."""
        return self.expires - now < _RENEWED_BELOW


def begin_run(database: sqlite3.Connection, client: int, host: str, path: str, now: float) -> str:
    """Begin a run, and return the run's id; runs with expired leases are deleted.

    Raises:
        BackupRefused: too many runs of the client are under way.
    """
    database.execute("DELETE FROM run WHERE expires <= ?", (now,))
    (count,) = database.execute("SELECT count(*) FROM run WHERE client = ?", (client,)).fetchone()
    if count >= MAX_RUNS:
        raise BackupRefused(
            f"{count} backups of this client run already; wait until one has ended", status=429
        )
    run = secrets.token_hex(16)
    database.execute(
        "INSERT INTO run (id, client, host, path, began, expires) VALUES (?, ?, ?, ?, ?, ?)",
        (run, client, host, path, now, now + LEASE_SECONDS),
    )
    return run


def find_run(database: sqlite3.Connection, client: int, run: str, now: float) -> ActiveRun:
    """Return a run of a client.

    Raises:
        BackupRefused: the run has ended, or belongs to another client.
    """
    row = database.execute(
        "SELECT number, expires FROM run WHERE id = ? AND client = ? AND expires > ?", (run, client, now)
    ).fetchone()
    if row is None:
        raise BackupRefused("this backup run has ended; begin a new one", status=404)
    return ActiveRun(run, row[0], client, row[1])


def renew_run(database: sqlite3.Connection, run: ActiveRun, now: float) -> None:
    """Renew the lease of a run.

    Raises:
        BackupRefused: the run has ended.
    """
    renewed = database.execute(
        "UPDATE run SET expires = ? WHERE number = ? AND expires > ?", (now + LEASE_SECONDS, run.number, now)
    )
    if not renewed.rowcount:
        raise BackupRefused("this backup run has ended; begin a new one", status=404)


def end_run(database: sqlite3.Connection, client: int, run: str) -> None:
    """End a run; an ended run is no error."""
    database.execute("DELETE FROM run WHERE id = ? AND client = ?", (run, client))


def oldest_run(database: sqlite3.Connection, now: float) -> int | None:
    """Return the number of the oldest run under way; None where there is none."""
    (number,) = database.execute("SELECT min(number) FROM run WHERE expires > ?", (now,)).fetchone()
    return None if number is None else int(number)


def next_run(database: sqlite3.Connection) -> int:
    """Return the lower bound of the numbers of later runs; all earlier runs have lower numbers."""
    row = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'run'").fetchone()
    return int(row[0]) + 1 if row else 1
