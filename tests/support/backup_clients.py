"""Clients of a running backup server: they save folders as `shardcast backup` does, and run its commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shardcast.backup.client.remote import BackupServer
from shardcast.backup.client.saving import BackupOrder, FolderBackup
from shardcast.backup.client.tree_saver import SaveRules
from shardcast.backup.ignoring import IgnoreRules, Patterns
from shardcast.backup.server.app import BackupServerNode
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.management import StoreManager
from shardcast.backup.server.store_folder import StoreFolder
from tests.support.backup_stores import running_server
from tests.support.processes import run


class Client:
    """A client with snapshots at a server.

    Attributes:
        url: of the server.
        server: the server, asked as the client.
        id_key: the key of the ids.
        key_file: the file with the client's key.
        node: the server, where it runs in this process.
    """

    def __init__(
        self,
        url: str,
        server: BackupServer,
        id_key: bytes,
        key_file: Path,
        node: BackupServerNode | None = None,
    ) -> None:
        self.url = url
        self.node = node
        self.server = server
        self.id_key = id_key
        self.key_file = key_file

    @property
    def store(self) -> BackupStore:
        """The store of the server, where that runs in this process."""
        assert self.node is not None
        return self.node.state.store

    def save(self, folder: Path, *tags: str) -> str:
        """Make a snapshot of a folder, all of which can be saved, and return its id."""
        return save_folder(self.server, folder, self.key_file.with_name("cache"), *tags)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which commands find the client."""
        return {"SHARDCAST_BACKUP_URL": self.url, "SHARDCAST_BACKUP_KEY_FILE": str(self.key_file)}

    async def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of backups."""
        return await asyncio.to_thread(run, "backup", *words, env=self.environment)

    async def lines(self, *words: str) -> list[str]:
        """Run a command that succeeds, and return the lines of its answer."""
        done = await self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def save_folder(server: BackupServer, folder: Path, cache: Path, *tags: str) -> str:
    """Make a snapshot of a folder, all of which can be saved, and return its id."""
    told: dict[bytes, str] = {}
    rules = SaveRules(IgnoreRules(Patterns(()), by_files=False))
    order = BackupOrder(os.fsencode(folder), rules, "desk", "me", cache, tags=tags)
    made = FolderBackup(server, order, told.__setitem__).run()
    assert told == {}
    return made.snapshot


@asynccontextmanager
async def a_client(folder: Path, **rules: object) -> AsyncIterator[Client]:
    """Run a server whose store is below a folder, with one client."""
    async with running_server(folder / "store", **rules) as node:
        with StoreManager.opened(StoreFolder(folder / "store")) as manager:
            invitation = manager.invite(100.0)
        with contextlib.closing(BackupServer(node.url)) as stranger:
            made = await asyncio.to_thread(stranger.register, invitation, "desk", b"/home/me")
        key_file = folder / "key"
        key_file.write_text(made.key.reveal())
        with contextlib.closing(BackupServer(node.url, made.key)) as server:
            yield Client(node.url, server, made.id_key, key_file, node)
