"""The log of a backup server: acts of clients and operators, with times."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from shardcast.plain_text import one_line

MAX_ENTRIES = 100_000
"""Entries in the log; older ones are deleted."""
_MAX_DETAIL = 300
"""Characters of an entry."""
_TRIMMED_EVERY = 1000
"""New entries after which old ones are deleted."""
LOCAL = "this machine"
"""The address in entries of commands at the server."""


class LogEntry(NamedTuple):
    """An entry of the log.

    Attributes:
        at: time, in seconds since 1970.
        client: the name of the client concerned; empty for an act that concerns no client, or a new one.
        address: source address of the request; ``LOCAL`` for a command at the server.
        action: the act, in a word.
        detail: more about the act.
    """

    at: float
    client: str
    address: str
    action: str
    detail: str


def add_entry(
    database: sqlite3.Connection, now: float, client: str, address: str, action: str, detail: str = ""
) -> None:
    """Add an entry to the log, in the transaction of the act; sometimes delete all but ``MAX_ENTRIES``."""
    added = database.execute(
        "INSERT INTO log (at, client, address, action, detail) VALUES (?, ?, ?, ?, ?)",
        (now, client, address, action, one_line(detail, _MAX_DETAIL)),
    )
    if added.lastrowid and not added.lastrowid % _TRIMMED_EVERY:
        database.execute("DELETE FROM log WHERE number <= ?", (added.lastrowid - MAX_ENTRIES,))


def read_entries(database: sqlite3.Connection, client: str | None = None) -> Iterator[LogEntry]:
    """Yield the entries of the log, oldest first; those about one client, or all."""
    condition, values = ("WHERE client = ?", (client,)) if client is not None else ("", ())
    rows = database.execute(
        f"SELECT at, client, address, action, detail FROM log {condition} ORDER BY number", values
    )
    for row in rows:
        yield LogEntry(*row)
