"""Where the snapshots of a command come from: a registered folder, or a server and a key."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardcast.cli.backup.server_address import server_address
from shardcast.cli.backup.server_options import PORT
from shardcast.cli.options import NamedPath, grouped, option
from shardcast.disk_errors import disk_errors
from shardcast.errors import UsageError

if TYPE_CHECKING:
    from shardcast.access.secret import Secret
    from shardcast.backup.client.answers import ClientFacts, ListedSnapshot
    from shardcast.backup.client.chunk_reader import ChunkReader
    from shardcast.backup.client.remote import BackupServer
    from shardcast.backup.client.snapshot_tree import SnapshotTree

SETTINGS = {"help_option_names": ["-h", "--help"]}
_MAX_KEY_FILE = 4096
"""Bytes of a file with a key."""


class OpenSource:
    """A connection to a server as one client.

    Attributes:
        server: the server.
        facts: the server's facts about the client.
        folder: the folder of the wanted snapshots; None for all folders.
        reader: of the client's chunks.
    """

    def __init__(
        self, server: BackupServer, facts: ClientFacts, folder: bytes | None, reader: ChunkReader
    ) -> None:
        self.server = server
        self.facts = facts
        self.folder = folder
        self.reader = reader

    def choose(self, text: str) -> tuple[ListedSnapshot, SnapshotTree]:
        """Return the snapshot named by a text, and its tree.

        Raises:
            UsageError: the text is ambiguous or malformed.
            VersionNotOffered: there is no such snapshot.
            ShardcastError: the server does not answer, or the snapshot's record is damaged.
        """
        from shardcast.backup.client.snapshot_choice import choose_snapshot

        found = choose_snapshot(self.server.snapshots(), text, self.folder)
        return found, self.tree(found.id)

    def tree(self, snapshot: str) -> SnapshotTree:
        """Return the tree of a snapshot.

        Raises:
            ShardcastError: the server does not answer, or the snapshot's record is damaged.
        """
        from shardcast.backup.client.snapshot_tree import SnapshotTree
        from shardcast.backup.snapshots import parse_snapshot

        tree = SnapshotTree.of(self.reader, parse_snapshot(self.server.record(snapshot)))
        tree.name = f"snapshot {snapshot}"
        return tree


@dataclass(frozen=True)
class SnapshotSource:
    """Options of a command for reading snapshots."""

    folder: Path | None
    url: str | None
    key_file: Path | None
    invitation: str | None
    ca: Path | None

    @contextmanager
    def open(self) -> Iterator[OpenSource]:
        """Yield the server and the client's facts, asked for first; close the connection at the end.

        Raises:
            UsageError: the options name no client, or the folder is not registered.
            LocalDiskError: a file can't be read.
            ShardcastError: the server does not answer.
        """
        from shardcast.backup.client.chunk_reader import ChunkReader

        server, folder = self._named_server() if self.url else self._registered_server()
        try:
            facts = server.facts()
            yield OpenSource(server, facts, folder, ChunkReader(server, facts.id_key))
        finally:
            server.close()

    def _registered_server(self) -> tuple[BackupServer, bytes]:
        """Return the server of the folder's registration, and the folder."""
        from shardcast.backup.client.registration import folder_path, registered
        from shardcast.backup.client.remote import BackupServer

        if self.key_file or self.invitation or self.ca:
            raise UsageError(
                "--key-file, --invitation and --ca belong to --url; a registered folder has a key"
            )
        folder = folder_path(self.folder or Path())
        found = registered(folder)
        return BackupServer(found.url, found.key, tls=found.tls), folder

    def _named_server(self) -> tuple[BackupServer, bytes | None]:
        """Return the server of --url, and the folder of --dir, not necessarily on this machine.

        With --invitation, first register this machine.
        """
        from shardcast.access.tls import client_tls
        from shardcast.backup.client.remote import BackupServer

        assert self.url is not None
        url, tls = server_address(self.url), client_tls(self.ca)
        folder = os.path.abspath(os.fsencode(self.folder)) if self.folder else None  # noqa: PTH100
        if not self.key_file:
            raise UsageError(
                "--url needs --key-file FILE: the client's key, or with --invitation a new file for the key"
            )
        if self.invitation:
            self._register(BackupServer(url, tls=tls), folder or b"/")
        return BackupServer(url, self._read_key(), tls=tls), folder

    def _register(self, server: BackupServer, folder: bytes) -> None:
        """Register this machine by the invitation, and write the new key into the key file.

        Raises:
            UsageError: there is a key file already.
            LocalDiskError: the key can't be kept.
            ShardcastError: the server refuses.
        """
        from shardcast.filesystem import replace

        assert self.invitation is not None and self.key_file is not None
        try:
            if self.key_file.exists():
                raise UsageError(f"{self.key_file} has a key already; leave --invitation out")
            with disk_errors("could not keep the key in", self.key_file):
                replace(self.key_file, b"", 0o600)  # fails before the invitation is used up
                try:
                    found = server.register(self.invitation.strip(), socket.gethostname(), folder)
                except BaseException:
                    self.key_file.unlink()
                    raise
                replace(self.key_file, found.key.reveal().encode() + b"\n", 0o600)
        finally:
            server.close()
        click.echo(f"registered as {found.client}; its key is in {self.key_file}", err=True)

    def _read_key(self) -> Secret:
        """Return the key in the key file.

        Raises:
            UsageError: the file holds no key.
            LocalDiskError: the file can't be read.
        """
        from shardcast.access.secret import Secret

        assert self.key_file is not None
        with disk_errors("could not read", self.key_file), self.key_file.open("rb") as file:
            text = file.read(_MAX_KEY_FILE).strip()
        if not text or not text.isascii() or len(text.split()) != 1:
            raise UsageError(f"{self.key_file} holds no key of a client")
        return Secret(text.decode())


source_options = grouped(
    "source",
    SnapshotSource,
    option(
        "--dir",
        "folder",
        env="BACKUP_DIR",
        type=NamedPath(path_type=Path),
        help="The registered folder, or one in it; the current one if missing.",
    ),
    option(
        "--url",
        env="BACKUP_URL",
        help="The backup server, on a machine without a registered folder: HOST, HOST:PORT or a URL; "
        f"the port is {PORT} unless given, 443 for https.",
    ),
    option(
        "--key-file",
        env="BACKUP_KEY_FILE",
        type=NamedPath(path_type=Path, dir_okay=False),
        help="Beside --url: the file with the client's key.",
    ),
    option(
        "--invitation",
        env="BACKUP_INVITATION",
        help="Beside --url: register this machine first, and keep the new key in --key-file.",
    ),
    option(
        "--ca",
        env="BACKUP_CA",
        type=NamedPath(path_type=Path, dir_okay=False),
        help="Beside --url: the CAs (PEM) to trust, and no others.",
    ),
)
"""Options for choosing a client's snapshots; the command gets them as ``source``."""
