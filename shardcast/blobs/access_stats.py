"""What an archive writes down beside its blobs: when each was put, and how often it was asked for.

SQLite keeps it, in one file and one thread: a million rows are counted up in place and listed by their
counts, a kill at any moment leaves the last whole transaction, and several processes can share it.
Nothing depends on it: without the file the counts begin anew, and times are those of the blobs' files. One
that is damaged is put aside and begun anew, and where there can be none it is kept in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from shardcast.blobs.directory.layout import OWN
from shardcast.concurrency import Threads
from shardcast.errors import LocalDiskError
from shardcast.file_locks import open_lock_file
from shardcast.filesystem import rename

log = logging.getLogger(__name__)

T = TypeVar("T")

_WRITE_AFTER = 2.0
"""Seconds after which counts are written down."""
_MOST_PENDING = 20_000
"""Keys whose counts wait to be written at the most."""
_BUSY = 10.0
"""Seconds to wait for another process that writes."""
_LOOKED_AT = 1000
"""Keys that are looked at in one step."""

_DAMAGED = ".damaged"
"""At the end of the name of a file that can't be read."""
_PASSES = ("is locked", "is full")
"""Errors that say nothing of the file."""

_TABLES = """
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
    """What an archive on a directory of blobs keeps there for itself."""
    return root / OWN / "archive"


def ledger_in(folder: Path) -> Path:
    """The file of an archive's ledger."""
    return folder / "archive.sqlite"


@dataclass(frozen=True, slots=True)
class Access:
    """How often a key was asked for, and when last, in seconds since the epoch."""

    key: str
    pulls: int
    last: float


class AccessStats:
    """The ledger in a file."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time, most: int = 1_000_000) -> None:
        """``most`` keys are counted; of more, those that are asked for least are forgotten, since anybody can
        ask for any key."""
        self._file = file
        self._clock = clock
        self._most = most
        self._pending: dict[str, tuple[int, float]] = {}
        self._writing: asyncio.TimerHandle | None = None
        self._written: set[asyncio.Future[None]] = set()
        self._thread = Threads(1, "shardcast-ledger")
        try:
            self._database = self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            try:
                return _connect(self._file)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # it isn't the file that is wrong
                    raise
                log.warning("%s is damaged, and begun anew: %s", self._file, error)
                self._put_aside()
                return _connect(self._file)
        except (sqlite3.Error, OSError) as error:
            log.warning("counts and times are kept in memory only: %s: %s", self._file, error)
            return _connect(":memory:")

    def _put_aside(self) -> None:
        """
        Raises:
            OSError: it can't be put aside.
        """
        for end in ("-wal", "-shm"):
            self._file.with_name(self._file.name + end).unlink(missing_ok=True)
        rename(self._file, self._file.with_name(self._file.name + _DAMAGED))

    def count(self, keys: Iterable[str]) -> None:
        """Each of these was asked for, now."""
        now = self._clock()
        for key in keys:
            self._pending[key] = self._pending.get(key, (0, now))[0] + 1, now
        loop = asyncio.get_running_loop()
        if len(self._pending) > _MOST_PENDING:
            self._write_soon()
        elif self._writing is None:
            self._writing = loop.call_later(_WRITE_AFTER, self._write_soon)

    def _write_soon(self) -> None:
        if self._writing:
            self._writing.cancel()
            self._writing = None
        task = asyncio.ensure_future(self._write())
        self._written.add(task)
        task.add_done_callback(self._written.discard)

    async def _write(self) -> None:
        counts, self._pending = self._pending, {}
        try:
            await self._run(lambda: self._add(counts))
        except LocalDiskError as error:
            log.error("%d counts are lost: %s", len(counts), error)

    def _add(self, counts: dict[str, tuple[int, float]]) -> None:
        rows = [(bytes.fromhex(key), pulls, last) for key, (pulls, last) in counts.items()]
        with _transaction(self._database) as database:
            database.executemany(
                "INSERT INTO access VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "pulls = pulls + excluded.pulls, last = max(last, excluded.last)",
                rows,
            )
            over = database.execute("SELECT count(*) FROM access").fetchone()[0] - self._most
            if over > 0:
                database.execute(
                    "DELETE FROM access WHERE key IN (SELECT key FROM access ORDER BY pulls, last LIMIT ?)",
                    (over,),
                )

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock()

    async def created(self, keys: Iterable[str], when: float) -> None:
        """These were put; those that are known keep their time.

        Raises:
            LocalDiskError: it could not be written down.
        """
        rows = [(bytes.fromhex(key), when) for key in keys]

        def write() -> None:
            with _transaction(self._database) as database:
                database.executemany("INSERT OR IGNORE INTO content VALUES (?, ?)", rows)

        await self._run(write)

    async def when(self, key: str) -> float | None:
        """When a blob was put, in seconds since the epoch; None where that wasn't written down.

        Raises:
            LocalDiskError: it can't be read.
        """
        query = "SELECT created FROM content WHERE key = ?"
        row = await self._run(lambda: self._database.execute(query, (bytes.fromhex(key),)).fetchone())
        return row[0] if row else None

    async def newest(self, count: int) -> list[tuple[str, float]]:
        """The keys that were put last, and when; the newest first.

        Raises:
            LocalDiskError: it can't be read.
        """
        query = "SELECT key, created FROM content ORDER BY created DESC LIMIT ?"
        rows = await self._run(lambda: self._database.execute(query, (count,)).fetchall())
        return [(key.hex(), created) for key, created in rows]

    async def most_pulled(self, count: int) -> list[Access]:
        """The keys that were asked for most, then last.

        Raises:
            LocalDiskError: it can't be read.
        """
        await self._write()
        query = "SELECT key, pulls, last FROM access ORDER BY pulls DESC, last DESC LIMIT ?"
        rows = await self._run(lambda: self._database.execute(query, (count,)).fetchall())
        return [Access(key.hex(), pulls, last) for key, pulls, last in rows]

    async def forget_missing(self, present: Callable[[Sequence[str]], Sequence[bool]]) -> int:
        """Forget the keys whose blobs aren't here any more, and how often they were asked for; how many were
        forgotten. ``present`` tells which of some are here, and is called in a thread.

        Raises:
            LocalDiskError: it can't be read or written.
        """
        await self._write()
        tables = ("content", "access")
        return sum([await self._run(partial(self._forget_missing, table, present)) for table in tables])

    def _forget_missing(self, table: str, present: Callable[[Sequence[str]], Sequence[bool]]) -> int:
        query = f"SELECT key FROM {table} WHERE key > ? ORDER BY key LIMIT {_LOOKED_AT}"
        last, forgotten = b"", 0
        while rows := self._database.execute(query, (last,)).fetchall():
            here = present([key.hex() for (key,) in rows])
            gone = [row for row, is_here in zip(rows, here, strict=True) if not is_here]
            with _transaction(self._database) as database:
                database.executemany(f"DELETE FROM {table} WHERE key = ?", gone)
            forgotten, (last,) = forgotten + len(gone), rows[-1]
        return forgotten

    async def close(self) -> None:
        """Write down what is counted, and let go of the file."""
        if self._writing:
            self._writing.cancel()
        await self._write()
        await asyncio.gather(*self._written)
        await self._run(self._database.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._carry_out, work)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _carry_out(self, work: Callable[[], T]) -> T:
        """Do something with the database; once more with one that was opened anew, where this one fails."""
        try:
            return work()
        except sqlite3.Error as error:
            if any(word in str(error) for word in _PASSES):
                raise
            log.warning("%s is opened anew: %s", self._file, error)
            self._database.close()
            self._database = self._open()
            return work()

    def _failure(self, error: sqlite3.Error) -> LocalDiskError:
        return LocalDiskError(
            f"{self._file}: {error}; only counts and times are in it: where it is damaged, remove it"
        )


def _connect(file: Path | str) -> sqlite3.Connection:
    """
    Raises:
        sqlite3.Error: it can't be used.
    """
    if isinstance(file, Path):
        with contextlib.suppress(OSError):  # SQLite says why, if it can't use the file
            os.close(open_lock_file(file))  # who can open it can lock it
    database = sqlite3.connect(file, timeout=_BUSY, isolation_level=None)
    try:
        database.executescript(_TABLES)
    except BaseException:
        database.close()
        raise
    return database


class _transaction:
    """A transaction: whole, or not at all."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        self._database.execute("BEGIN IMMEDIATE")
        return self._database

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._database.execute("ROLLBACK" if kind else "COMMIT")
