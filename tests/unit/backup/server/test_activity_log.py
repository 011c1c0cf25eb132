"""The log of who did what: kept, bounded, and safe to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardcast.backup.server import activity_log
from shardcast.backup.server.activity_log import add_entry, read_entries
from shardcast.backup.server.database import connect


def test_log_keeps_the_newest_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_log, "MAX_ENTRIES", 20)
    monkeypatch.setattr(activity_log, "_TRIMMED_EVERY", 5)
    database = connect(tmp_path / "db")
    for number in range(50):
        add_entry(database, float(number), f"client-{number % 2}", "::1", "snapshot", f"{number}\n\x1b[2J")
    entries = list(read_entries(database))
    assert [entry.at for entry in entries] == [float(number) for number in range(30, 50)]
    assert all(entry.detail.isprintable() for entry in entries)
    assert {entry.client for entry in read_entries(database, "client-1")} == {"client-1"}
    database.close()
