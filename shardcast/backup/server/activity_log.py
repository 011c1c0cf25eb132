"""The log of a backup server: who did what, and when."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from shardcast.plain_text import one_line

MAX_ENTRIES = 100_000
"""Entries that are kept; older ones go."""
_MAX_DETAIL = 300
"""Characters of an entry."""
_TRIMMED_EVERY = 1000
"""Entries after which older ones are looked for."""
LOCAL = "this machine"
"""The address of commands that work at the server."""


class LogEntry(NamedTuple):
    """An entry of the log.

    Attributes:
        at: when, in seconds since 1970.
        client: the client that it is about.
        address: where the request came from.
        action: what was done, in a word.
        detail: what more there is to say.
    """

    at: float
    client: str
    address: str
    action: str
    detail: str


def add_entry(
    database: sqlite3.Connection, now: float, client: str, address: str, action: str, detail: str = ""
) -> None:
    """Add an entry to the log, in the transaction of what it tells."""
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
