"""The SQLite database of a backup server: transactions in threads, migrations, errors in words.

Nothing in the database may be lost: each transaction is on the disk before the client's request is
acknowledged, and a damaged file is an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from shardcast.backup.server.schema import MIGRATIONS
from shardcast.blobs.sqlite_file import transaction
from shardcast.concurrency import ThreadPool, in_pool
from shardcast.errors import LocalDiskError, WrongStore
from shardcast.temporary_files import create_private

T = TypeVar("T")
P = ParamSpec("P")
Work = Callable[Concatenate[sqlite3.Connection, P], T]
"""A function of a database, called inside a transaction."""

_BUSY = 30.0
"""Seconds to wait for another writing process."""
_READERS = 2
"""Threads for reading."""
_CACHE_KIB = 16 << 10
"""KiB of the database in the memory of each connection."""
_PRIMARY_CODE = 0xFF
"""The bits of SQLite's error codes without the details."""
_SETTINGS = f"""
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON;
    PRAGMA trusted_schema = OFF;
    PRAGMA cache_size = -{_CACHE_KIB};
    PRAGMA journal_size_limit = 67108864;
"""


def connect(file: Path) -> sqlite3.Connection:
    """Open the database, making or migrating it as needed, with the tables of this release.

    Raises:
        LocalDiskError: the file cannot be used.
        WrongStore: a newer release made the database.
    """
    with database_errors(file):
        # Never open an existing file by hand: closing any descriptor drops all locks of the process on the
        # file (fcntl(2)), also those of other connections; another process would then delete the log under
        # them.
        with contextlib.suppress(FileExistsError):
            os.close(create_private(file))
        database = sqlite3.connect(file, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            database.executescript(_SETTINGS)
            _migrate(database, file)
        except BaseException:
            database.close()
            raise
    return database


@contextlib.contextmanager
def database_errors(file: Path) -> Iterator[None]:
    """Turn errors of SQLite into ``LocalDiskError``, with the file in the message.

    Raises:
        LocalDiskError: the block raised an error of SQLite or of the system.
    """
    try:
        yield
    except sqlite3.Error as error:
        full = "is full" in str(error)
        failure = LocalDiskError(f"could not use {file}: {error}; {_advice(error, full)}")
        failure.errno = errno.ENOSPC if full else errno.EIO
        raise failure from error
    except LocalDiskError:
        raise
    except OSError as error:
        failure = LocalDiskError(f"could not use {file}: {error.strerror or error}")
        failure.errno = error.errno
        raise failure from error


def _advice(error: sqlite3.Error, full: bool) -> str:
    """Return what to do about an error of SQLite."""
    if full:
        return "free some space and try again"
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY_CODE
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another process works on it; try again later"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return "let this user write the file and its folder"
    return "see `shardcast backup check --store_dir`, or restore a copy"


def _migrate(database: sqlite3.Connection, file: Path) -> None:
    """Bring the tables to the version of this release, each step in a transaction of its own.

    Raises:
        WrongStore: a newer release made the tables.
    """
    while (version := _version(database)) < len(MIGRATIONS):
        with transaction(database):
            if _version(database) == version:  # another process may have been first
                for statement in _statements(MIGRATIONS[version]):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {version + 1}")
    if version > len(MIGRATIONS):
        raise WrongStore(
            f"{file} was made by a newer shardcast (version {version} of the tables); use that release"
        )


def _version(database: sqlite3.Connection) -> int:
    """Return the version of the tables."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script; ``executescript`` would end the transaction."""
    gathered = ""
    for line in script.splitlines(keepends=True):
        gathered += line
        if sqlite3.complete_statement(gathered):
            yield gathered
            gathered = ""


class Database:
    """A database with transactions in threads: one writer and several readers."""

    def __init__(self, file: Path) -> None:
        """Open the database; blocks on the disk.

        Raises:
            LocalDiskError, WrongStore: as for ``connect``.
        """
        self._file = file
        # Each thread of the pools has its own connection: two in one would share its transaction.
        self._connections: list[sqlite3.Connection] = []
        self._local = threading.local()
        self._writing = ThreadPool(1, "backup-writer")
        self._reading = ThreadPool(_READERS, "backup-reader")
        try:
            self._writing.submit(self._connection).result()
        except BaseException:
            self.close()
            raise

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of ``work(database, …)``, called in a transaction that is durable on return.

        Raises:
            LocalDiskError: the database cannot be used; nothing was changed.
            ShardcastError: raised by ``work``; nothing was changed.
        """
        return await in_pool(self._writing, lambda: self._call("IMMEDIATE", work, *args, **kwargs))

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of ``work(database, …)``, called on one state of the database.

        Raises:
            LocalDiskError: the database cannot be read.
            ShardcastError: raised by ``work``.
        """
        return await in_pool(self._reading, lambda: self._call("DEFERRED", work, *args, **kwargs))

    async def empty_log(self) -> None:
        """Move the write-ahead log into the database, and empty its file unless another connection reads it.

        Raises:
            LocalDiskError: the database cannot be written.
        """
        await in_pool(self._writing, self._empty_log)

    def _empty_log(self) -> None:
        database = self._connection()
        with database_errors(self._file):
            database.execute("PRAGMA busy_timeout = 0")  # a reader may take minutes
            try:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                database.execute(f"PRAGMA busy_timeout = {int(_BUSY * 1000)}")

    def close(self) -> None:
        """Wait for running transactions, and close the database."""
        self._reading.shutdown()
        self._writing.shutdown()
        for connection in self._connections:
            with database_errors(self._file):
                connection.close()
        self._connections.clear()

    def _call(self, kind: str, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work`` in a transaction; runs in a thread of the pool."""
        return in_transaction(self._connection(), self._file, kind, work, *args, **kwargs)

    def _connection(self) -> sqlite3.Connection:
        """Return the connection of this thread."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self._file)
            self._connections.append(connection)
        return connection


def in_transaction(
    database: sqlite3.Connection, file: Path, kind: str, work: Work[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Return the result of ``work(database, …)``, called in a transaction of a kind: ``IMMEDIATE`` to write.

    Raises:
        LocalDiskError: the database can't be used; nothing was changed.
    """
    with database_errors(file):
        database.execute(f"BEGIN {kind}")
        try:
            result = work(database, *args, **kwargs)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # a full disk may have rolled it back already
                database.execute("ROLLBACK")
            raise
        return result
