"""The database: made, migrated from each version, refused where it is newer, and errors in words."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from shardcast.backup.server.database import Database, connect, in_transaction
from shardcast.backup.server.schema import MIGRATIONS
from shardcast.errors import LocalDiskError, WrongStore


def schema(database: sqlite3.Connection) -> list[tuple[str, ...]]:
    return database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_each_version_is_brought_to_the_newest(tmp_path: Path, version: int) -> None:
    old = sqlite3.connect(tmp_path / "old")
    for step in MIGRATIONS[:version]:
        old.executescript(step)
    old.execute(f"PRAGMA user_version = {version}")
    if version:
        old.execute(
            "INSERT INTO client (name, id_key, host, path, registered) VALUES ('a', x'00', '', '', 0)"
        )
    old.commit()
    old.close()
    new, migrated = connect(tmp_path / "new"), connect(tmp_path / "old")
    assert schema(migrated) == schema(new)
    assert migrated.execute("SELECT count(*) FROM client").fetchone() == (1 if version else 0,)
    new.close()
    migrated.close()


def test_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    newer = connect(tmp_path / "db")
    newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.close()
    with pytest.raises(WrongStore, match="newer shardcast"):
        connect(tmp_path / "db")


def test_damaged_database_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(LocalDiskError, match=r"could not use .* restore a copy"):
        connect(tmp_path / "db")
    assert (tmp_path / "db").read_bytes().startswith(b"no database")


def test_locked_database_is_not_called_damaged(tmp_path: Path) -> None:
    database, other = connect(tmp_path / "db"), connect(tmp_path / "db")
    other.execute("PRAGMA busy_timeout = 0")
    database.execute("BEGIN IMMEDIATE")
    with pytest.raises(LocalDiskError, match=r"could not use .* another process"):
        in_transaction(other, tmp_path / "db", "IMMEDIATE", lambda found: found.execute("DELETE FROM run"))
    database.close()
    other.close()


def test_only_its_owner_reads_the_database(tmp_path: Path) -> None:
    connect(tmp_path / "db").close()
    assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o600


async def test_failed_transaction_changes_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO discard (digest) VALUES (x'01')")
        raise UnicodeError("a bug")

    with pytest.raises(UnicodeError):
        await database.write(work)
    count = await database.read(lambda found: found.execute("SELECT count(*) FROM discard").fetchone())
    assert count == (0,)
    database.close()


def test_read_only_file_is_an_error_in_words(tmp_path: Path) -> None:
    database = connect(tmp_path / "db")
    database.execute("PRAGMA query_only = ON")
    with pytest.raises(LocalDiskError, match=r"could not use .* let this user write"):
        in_transaction(database, tmp_path / "db", "IMMEDIATE", lambda found: found.execute("DELETE FROM run"))
    assert not database.in_transaction
    database.close()


async def test_log_is_emptied_unless_somebody_reads_it(tmp_path: Path) -> None:
    def add(connection: sqlite3.Connection, number: int) -> None:
        connection.execute("INSERT INTO discard (digest) VALUES (?)", (bytes([number]) * 5000,))

    database, log = Database(tmp_path / "db"), tmp_path / "db-wal"
    reader = connect(tmp_path / "db")
    await database.write(add, 1)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM discard").fetchone() == (1,)
    await database.write(add, 2)
    await database.empty_log()
    assert log.stat().st_size > 5000
    assert reader.execute("SELECT count(*) FROM discard").fetchone() == (1,)
    reader.execute("COMMIT")
    await database.empty_log()
    assert log.stat().st_size == 0
    await database.write(add, 3)
    reader.close()
    database.close()
    database = Database(tmp_path / "db")
    assert await database.read(lambda found: found.execute("SELECT count(*) FROM discard").fetchone()) == (3,)
    database.close()
