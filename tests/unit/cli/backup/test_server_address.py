"""The server of ``--url``: every command of a client assumes the port of backup servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardcast.backup.client.remote import BackupServer
from shardcast.cli.backup.server_address import server_address
from shardcast.cli.backup.snapshot_source import SnapshotSource
from shardcast.errors import UsageError, VersionNotOffered

ADDRESSES = [
    ("backup.example", "http://backup.example:7532"),
    ("[fd00::7]", "http://[fd00::7]:7532"),
    ("http://backup.example/prefix/", "http://backup.example:7532/prefix"),
    ("backup.example:8000", "http://backup.example:8000"),
    ("http://backup.example:80", "http://backup.example:80"),
    ("https://backup.example", "https://backup.example:443"),
]


@pytest.mark.parametrize(("text", "url"), ADDRESSES)
def test_address_without_port_gets_that_of_backup_servers(text: str, url: str) -> None:
    assert server_address(text) == url


@pytest.mark.parametrize("text", ["", "two words", "host:0", "host:port", "ftp://host"])
def test_malformed_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        server_address(text)


@pytest.mark.parametrize(("text", "url"), ADDRESSES)
def test_commands_that_read_snapshots_ask_the_same_server(
    text: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def facts(self: BackupServer) -> None:
        asked.append(self.url)
        raise VersionNotOffered("there is no server")

    monkeypatch.setattr(BackupServer, "facts", facts)
    key_file = tmp_path / "key"
    key_file.write_text("shardcast_key\n")
    source = SnapshotSource(folder=None, url=text, key_file=key_file, invitation=None, ca=None)
    with pytest.raises(VersionNotOffered), source.open():
        pass
    assert asked == [url]
