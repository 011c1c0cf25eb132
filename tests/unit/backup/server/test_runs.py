"""Runs: leases, renewal, and bounds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardcast.backup.server.accounts import make_invitation, register
from shardcast.backup.server.database import connect
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.runs import (
    LEASE_SECONDS,
    MAX_RUNS,
    begin_run,
    end_run,
    find_run,
    next_run,
    oldest_run,
    renew_run,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = connect(tmp_path / "db")
    for _ in range(2):
        register(opened, make_invitation(opened, 0.0, 10.0), "desk", "/", 1.0)
    yield opened
    opened.close()


def test_run_ends_when_its_lease_does_unless_it_is_renewed(database: sqlite3.Connection) -> None:
    run = find_run(database, 1, begin_run(database, 1, "h", "/", 0.0), 1.0)
    assert not run.needs_renewal(1.0) and run.needs_renewal(LEASE_SECONDS - 1)
    renew_run(database, run, LEASE_SECONDS - 1)
    assert find_run(database, 1, run.id, 2 * LEASE_SECONDS - 2)
    with pytest.raises(BackupRefused, match="ended"):
        find_run(database, 1, run.id, 2 * LEASE_SECONDS)
    with pytest.raises(BackupRefused, match="ended"):
        renew_run(database, run, 2 * LEASE_SECONDS)


def test_run_of_another_client_is_as_one_that_has_ended(database: sqlite3.Connection) -> None:
    run = begin_run(database, 1, "h", "/", 0.0)
    with pytest.raises(BackupRefused) as other:
        find_run(database, 2, run, 1.0)
    with pytest.raises(BackupRefused) as unknown:
        find_run(database, 2, "0" * 32, 1.0)
    assert str(other.value) == str(unknown.value) and other.value.status == 404
    end_run(database, 2, run)
    assert find_run(database, 1, run, 1.0)


def test_client_has_so_many_runs_at_a_time(database: sqlite3.Connection) -> None:
    runs = [begin_run(database, 1, "h", "/", 0.0) for _ in range(MAX_RUNS)]
    with pytest.raises(BackupRefused) as refused:
        begin_run(database, 1, "h", "/", 1.0)
    assert refused.value.status == 429
    end_run(database, 1, runs[0])
    begin_run(database, 1, "h", "/", 1.0)
    begin_run(database, 1, "h", "/", LEASE_SECONDS)  # the others have ended


def test_numbers_of_runs_only_grow(database: sqlite3.Connection) -> None:
    assert next_run(database) == 1 and oldest_run(database, 0.0) is None
    first = find_run(database, 1, begin_run(database, 1, "h", "/", 0.0), 1.0)
    end_run(database, 1, first.id)
    assert next_run(database) == first.number + 1 and oldest_run(database, 1.0) is None
    second = find_run(database, 1, begin_run(database, 1, "h", "/", 0.0), 1.0)
    assert second.number == first.number + 1 == oldest_run(database, 1.0)
