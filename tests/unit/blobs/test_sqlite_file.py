"""A database in a file that several connections and processes have open at once."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from shardcast.blobs.sqlite_file import SqliteFile

SCHEMA = "PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS numbers (number INTEGER);"
READ = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
print(*(row[0] for row in database.execute("SELECT number FROM numbers ORDER BY number")))
database.close()
"""


async def add(database: SqliteFile, number: int) -> None:
    def insert(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))

    await database.run(insert)


def read_elsewhere(file: Path) -> list[int]:
    """Return the numbers as another process reads them, which closes the database at its end."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(file)], capture_output=True, text=True, check=True, timeout=30
    )
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize("mode", [0o600, 0o644], ids=["private", "of-an-earlier-version"])
async def test_second_connection_keeps_the_locks_of_the_first(tmp_path: Path, mode: int) -> None:
    """Without its locks, another process takes itself for the last user and deletes the log."""
    file = tmp_path / "numbers.sqlite"
    first = SqliteFile(file, SCHEMA)
    await add(first, 1)
    file.chmod(mode)
    second = SqliteFile(file, SCHEMA)
    await second.close()
    log = (tmp_path / "numbers.sqlite-wal").stat().st_ino
    assert read_elsewhere(file) == [1]
    assert (tmp_path / "numbers.sqlite-wal").stat().st_ino == log
    await add(first, 2)
    assert read_elsewhere(file) == [1, 2]
    await first.close()
    assert file.stat().st_mode & 0o777 == 0o600


async def test_database_of_another_user_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "numbers.sqlite"
    sqlite3.connect(file).close()
    file.touch(0o644)
    file.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    database = SqliteFile(file, SCHEMA)
    await database.close()
    assert file.stat().st_mode & 0o777 == 0o644
