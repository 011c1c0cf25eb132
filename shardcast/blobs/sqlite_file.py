"""A SQLite database in one file and one thread, for expendable data: a damaged file is recreated.

A kill at any moment leaves the last whole transaction, and several processes can share the file. A damaged
file is moved aside and a new one begun; without any possible file, the database is in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from shardcast.concurrency import ThreadPool
from shardcast.errors import LocalDiskError
from shardcast.file_locks import set_lock_mode
from shardcast.file_moves import rename
from shardcast.temporary_files import create_private

log = logging.getLogger(__name__)

T = TypeVar("T")

_BUSY = 10.0
"""Seconds to wait for another writing process."""
_DAMAGED = ".damaged"
"""Suffix of an unreadable file."""
_TRANSIENT = ("is locked", "is full")
"""Words of the errors without meaning for the file itself."""


class SqliteFile:
    """A database with all statements in a thread of its own, one after the other."""

    def __init__(self, file: Path, schema: str) -> None:
        """Open the database; blocks on the disk. ``schema`` is a script to make missing tables.

        A damaged file is replaced by a new one; if no file can be used, the database is in memory.
        """
        self._file, self._schema = file, schema
        self._thread = ThreadPool(1, "shardcast-ledger")
        try:
            self._database = self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown()
            raise

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of ``work``, called with the database in the thread.

        After a failure ``work`` is called a second time, with a newly opened database, unless the file is
        locked or the disk is full.

        Raises:
            LocalDiskError: the database can't be read or written.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._try, work)
        except sqlite3.Error as error:
            raise LocalDiskError(
                f"{self._file}: {error}; the file has only counts and times: if damaged, remove it"
            ) from error

    async def close(self) -> None:
        """Close the database, and end its thread.

        Raises:
            LocalDiskError: the database can't be closed.
        """
        await self.run(sqlite3.Connection.close)
        self._thread.shutdown()

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``work``, and once more with a reopened database where an error may lie in the file."""
        try:
            return work(self._database)
        except sqlite3.Error as error:
            if any(words in str(error) for words in _TRANSIENT):
                raise
            log.warning("%s is opened anew: %s", self._file, error)
            self._database.close()
            self._database = self._open()
            return work(self._database)

    def _open(self) -> sqlite3.Connection:
        """Open the database: from the file, from a new file, or in memory."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self._connect(self._file)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # of the disk or a lock, not of the content
                    raise
                log.warning("%s is damaged, and begun anew: %s", self._file, error)
                self._move_aside()
                return self._connect(self._file)
        except (sqlite3.Error, OSError) as error:
            log.warning("counts and times are kept in memory only: %s: %s", self._file, error)
            return self._connect(":memory:")

    def _move_aside(self) -> None:
        """Rename a damaged file, and remove its log, lest SQLite apply the log to the next one.

        Raises:
            OSError: the file can't be renamed.
        """
        for end in ("-wal", "-shm"):
            self._file.with_name(self._file.name + end).unlink(missing_ok=True)
        rename(self._file, self._file.with_name(self._file.name + _DAMAGED))

    def _connect(self, file: Path | str) -> sqlite3.Connection:
        """Open a database and make its tables.

        Raises:
            sqlite3.Error: the database cannot be used.
        """
        if isinstance(file, Path):
            with contextlib.suppress(OSError):  # SQLite reports the reason, if it can't use the file
                with contextlib.suppress(FileExistsError):  # a file that is there is never opened by hand
                    os.close(create_private(file))
                set_lock_mode(file)  # everybody able to open the database can lock it, and make us wait
        database = sqlite3.connect(file, timeout=_BUSY, isolation_level=None)
        try:
            database.executescript(self._schema)
        except BaseException:
            database.close()
            raise
        return database


class transaction:
    """A context whose statements take effect together, or not at all after an error."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        self._database.execute("BEGIN IMMEDIATE")
        return self._database

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._database.execute("ROLLBACK" if kind else "COMMIT")
