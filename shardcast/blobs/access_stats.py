"""The put times of an archive's blobs, and the number of requests for each.

SQLite keeps them: a million rows are counted up in place and listed by their counts. Nothing depends on them:
without the file the counts begin anew, and the times are those of the blobs' files (see ``sqlite_file``).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shardcast.blobs.directory.layout import OWN_FOLDER
from shardcast.blobs.sqlite_file import SqliteFile, transaction
from shardcast.errors import LocalDiskError

log = logging.getLogger(__name__)

_WRITE_INTERVAL = 2.0
"""Seconds between two writes of counts to the disk."""
_MAX_PENDING = 20_000
"""Keys whose counts may wait to be written."""
_BATCH = 1000
"""Keys looked up in one step."""

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS content (key BLOB PRIMARY KEY, created REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS content_created ON content (created);
CREATE TABLE IF NOT EXISTS access (
    key BLOB PRIMARY KEY, pulls INTEGER NOT NULL, last REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS access_pulls ON access (pulls, last);
"""


def archive_folder(root: Path) -> Path:
    """Return an archive's own folder in a directory of blobs."""
    return root / OWN_FOLDER / "archive"


def stats_file(folder: Path) -> Path:
    """Return the path of an archive's statistics in its folder."""
    return folder / "archive.sqlite"


@dataclass(frozen=True, slots=True)
class Access:
    """How often a key was asked for, and when last, in seconds since the epoch."""

    key: str
    pulls: int
    last: float


class AccessStats:
    """The statistics of an archive, in a file."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time, max_keys: int = 1_000_000) -> None:
        """Open the file; blocks on the disk.

        Args:
            file: the file; made if missing.
            clock: the time, in seconds since the epoch.
            max_keys: maximum counted keys. Any client may ask for any key, so of more keys the least
                requested are forgotten.
        """
        self._clock = clock
        self._max_keys = max_keys
        self._pending: dict[str, tuple[int, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writes: set[asyncio.Future[None]] = set()
        self._database = SqliteFile(file, _SCHEMA)

    def count_pulls(self, keys: Iterable[str]) -> None:
        """Count a request for each of these keys, now; the counts are written to the disk later."""
        now = self._clock()
        for key in keys:
            self._pending[key] = self._pending.get(key, (0, now))[0] + 1, now
        loop = asyncio.get_running_loop()
        if len(self._pending) > _MAX_PENDING:
            self._start_write()
        elif self._timer is None:
            self._timer = loop.call_later(_WRITE_INTERVAL, self._start_write)

    def _start_write(self) -> None:
        """Start writing the pending counts, and cancel the timer for it."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        task = asyncio.ensure_future(self._write())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self) -> None:
        """Write the pending counts down; a failure is logged, and loses them."""
        counts, self._pending = self._pending, {}
        try:
            await self._database.run(partial(_add_counts, counts, self._max_keys))
        except LocalDiskError as error:
            log.error("the counted requests for %d blobs are lost: %s", len(counts), error)

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""
        return self._clock()

    async def record_put(self, keys: Iterable[str], when: float) -> None:
        """Record the put time of keys; known keys keep theirs.

        Raises:
            LocalDiskError: the file can't be written.
        """
        rows = [(bytes.fromhex(key), when) for key in keys]

        def insert(connection: sqlite3.Connection) -> None:
            with transaction(connection) as database:
                database.executemany("INSERT OR IGNORE INTO content VALUES (?, ?)", rows)

        await self._database.run(insert)

    async def put_time(self, key: str) -> float | None:
        """Return the put time of a blob, in seconds since the epoch, or None without a record.

        Raises:
            LocalDiskError: the file can't be read.
        """
        rows = await self._select("SELECT created FROM content WHERE key = ?", bytes.fromhex(key))
        return rows[0][0] if rows else None

    async def newest(self, count: int) -> list[tuple[str, float]]:
        """Return the keys put last, with their times; the newest first.

        Raises:
            LocalDiskError: the file can't be read.
        """
        rows = await self._select("SELECT key, created FROM content ORDER BY created DESC LIMIT ?", count)
        return [(key.hex(), created) for key, created in rows]

    async def most_pulled(self, count: int) -> list[Access]:
        """Return the most requested keys; among equals, the last requested first.

        The pending counts are written first.

        Raises:
            LocalDiskError: the file can't be read.
        """
        await self._write()
        query = "SELECT key, pulls, last FROM access ORDER BY pulls DESC, last DESC LIMIT ?"
        rows = await self._select(query, count)
        return [Access(key.hex(), pulls, last) for key, pulls, last in rows]

    async def _select(self, query: str, parameter: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query with one parameter."""
        return await self._database.run(lambda database: database.execute(query, (parameter,)).fetchall())

    async def forget_missing(self, present: Callable[[Sequence[str]], Sequence[bool]]) -> int:
        """Delete the put times and counts of blobs that are gone, and return the number of deleted records.

        A blob with both a time and a count has two records.

        Args:
            present: returns for each of some blobs whether the store has it; called in a thread.

        Raises:
            LocalDiskError: the file cannot be read or written.
        """
        await self._write()
        tables = ("content", "access")
        return sum([await self._database.run(partial(_forget_missing, table, present)) for table in tables])

    async def close(self) -> None:
        """Write the pending counts down, and release the file.

        Raises:
            LocalDiskError: the file can't be closed.
        """
        if self._timer:
            self._timer.cancel()
        await self._write()
        await asyncio.gather(*self._writes)
        await self._database.close()


def _add_counts(counts: dict[str, tuple[int, float]], max_keys: int, connection: sqlite3.Connection) -> None:
    """Add counts to those of a database, and delete the least requested keys above ``max_keys``."""
    rows = [(bytes.fromhex(key), pulls, last) for key, (pulls, last) in counts.items()]
    with transaction(connection) as database:
        database.executemany(
            "INSERT INTO access VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
            "pulls = pulls + excluded.pulls, last = max(last, excluded.last)",
            rows,
        )
        excess = database.execute("SELECT count(*) FROM access").fetchone()[0] - max_keys
        if excess > 0:
            database.execute(
                "DELETE FROM access WHERE key IN (SELECT key FROM access ORDER BY pulls, last LIMIT ?)",
                (excess,),
            )


def _forget_missing(
    table: str, present: Callable[[Sequence[str]], Sequence[bool]], connection: sqlite3.Connection
) -> int:
    """Delete a table's rows whose blobs are gone, a batch at a time, and return how many were deleted."""
    query = f"SELECT key FROM {table} WHERE key > ? ORDER BY key LIMIT {_BATCH}"
    last, forgotten = b"", 0
    while rows := connection.execute(query, (last,)).fetchall():
        is_present = present([key.hex() for (key,) in rows])
        gone = [row for row, here in zip(rows, is_present, strict=True) if not here]
        with transaction(connection) as database:
            database.executemany(f"DELETE FROM {table} WHERE key = ?", gone)
        forgotten, (last,) = forgotten + len(gone), rows[-1]
    return forgotten
