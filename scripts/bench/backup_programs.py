"""Backup programs as the cases run them: ours with its server, restic and borg with local repositories."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import peers
from harness import Failed
from processes import Ended, Running, environment, run_command, running, shardcast_words

HOUR = 3600.0


class BackupProgram(Protocol):
    """A program with an empty store of its own.

    Attributes:
        store: the folder of the store.
        server: the process that keeps the store; None for a program without one.
    """

    store: Path
    server: Running | None

    def back_up(self, folder: Path) -> Ended:
        """Save a folder."""

    def restore(self, folder: Path, destination: Path) -> Ended:
        """Restore the newest snapshot of a folder into an empty one."""

    def sent_bytes(self, ended: Ended) -> int | None:
        """Return the bytes that a backup sent; None where it does not tell."""


class Ours:
    """``shardcast-backup``, beside its server on loopback."""

    def __init__(self, store: Path, server: Running, variables: Mapping[str, str]) -> None:
        self.store = store
        self.server: Running | None = server
        self._variables = environment(**variables)

    def back_up(self, folder: Path) -> Ended:
        """Save a folder, which is registered at its first backup."""
        if self.server is None:
            raise Failed("the backup server has ended")
        if not (self.store.parent / "registered").exists():
            invitation = self._run("invite", "--store_dir", str(self.store)).output.strip()
            self._run(
                "register", "--dir", str(folder), "--url", self.server.url(), "--invitation", invitation
            )
            (self.store.parent / "registered").touch()
        return self._run("backup", "--dir", str(folder), "--json", "--quiet")

    def restore(self, folder: Path, destination: Path) -> Ended:
        """Restore the newest snapshot of the folder."""
        return self._run("restore", "latest", "--dir", str(folder), "--dest", str(destination), "--quiet")

    def sent_bytes(self, ended: Ended) -> int | None:
        """Return the bytes that a backup sent."""
        return int(json.loads(ended.output)["sent_bytes"])

    def _run(self, *words: str) -> Ended:
        """Run a command of backups."""
        return run_command(shardcast_words("backup", *words), env=self._variables, timeout=HOUR)


class Restic:
    """restic, with a local repository."""

    server: Running | None = None

    def __init__(self, place: Path) -> None:
        self.store = place / "store"
        self._variables = environment(
            RESTIC_PASSWORD="bench", RESTIC_REPOSITORY=str(self.store), RESTIC_CACHE_DIR=str(place / "cache")
        )
        self._run("init")

    def back_up(self, folder: Path) -> Ended:
        """Save a folder."""
        return self._run("backup", str(folder), "--json", "--quiet")

    def restore(self, folder: Path, destination: Path) -> Ended:
        """Restore the newest snapshot."""
        return self._run("restore", "latest", "--target", str(destination))

    def sent_bytes(self, ended: Ended) -> int | None:
        """Return nothing: how much was written is in no line that all versions print."""
        return None

    def _run(self, *words: str) -> Ended:
        """Run restic."""
        return run_command([peers.tool("restic"), *words], env=self._variables, timeout=HOUR)


class Borg:
    """borg, with a local repository without encryption, and zstd as ours."""

    server: Running | None = None

    def __init__(self, place: Path) -> None:
        self.store = place / "store"
        self._variables = environment(
            BORG_BASE_DIR=str(place / "base"),
            BORG_REPO=str(self.store),
            BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes",
        )
        self._number = 0
        self._run("init", "--encryption", "none")

    def back_up(self, folder: Path) -> Ended:
        """Save a folder."""
        self._number += 1
        return self._run("create", "--compression", "auto,zstd,3", f"::{self._number}", str(folder))

    def restore(self, folder: Path, destination: Path) -> Ended:
        """Restore the newest archive."""
        destination.mkdir()
        return self._run("extract", f"::{self._number}", cwd=destination)

    def sent_bytes(self, ended: Ended) -> int | None:
        """Return nothing."""
        return None

    def _run(self, *words: str, cwd: Path | None = None) -> Ended:
        """Run borg."""
        return run_command([peers.tool("borg"), *words], env=self._variables, cwd=cwd, timeout=HOUR)


@contextlib.contextmanager
def ours(place: Path) -> Iterator[BackupProgram]:
    """Run our backup server with an empty store."""
    store = place / "store"
    variables = {"XDG_CONFIG_HOME": str(place / "config"), "XDG_CACHE_HOME": str(place / "cache")}
    words = ("backup", "start", "--store_dir", str(store), "--host", "127.0.0.1", "--port", "0")
    with running(shardcast_words(*words), env=environment(**variables)) as server:
        server.url()
        yield Ours(store, server, variables)


@contextlib.contextmanager
def restic(place: Path) -> Iterator[BackupProgram]:
    """Make a repository of restic."""
    yield Restic(place)


@contextlib.contextmanager
def borg(place: Path) -> Iterator[BackupProgram]:
    """Make a repository of borg."""
    yield Borg(place)
