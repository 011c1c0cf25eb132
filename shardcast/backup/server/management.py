"""The work of an operator at the store's folder, beside a running server or without one."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from shardcast.backup.server.accounts import find_client, make_invitation, revoke, set_quota
from shardcast.backup.server.activity_log import LOCAL, LogEntry, add_entry, read_entries
from shardcast.backup.server.database import connect, in_transaction
from shardcast.backup.server.pack_table import used_bytes
from shardcast.backup.server.snapshot_table import arrivals
from shardcast.backup.server.store_folder import StoreFolder
from shardcast.backup.server.unusual import DAY, WATCHED_DAYS, unusual_count
from shardcast.constants import LOCK_WAIT
from shardcast.disk_errors import disk_errors
from shardcast.file_locks import locked
from shardcast.sizes import format_size

T = TypeVar("T")

_NO_QUOTA = "the server's"


@dataclass(frozen=True)
class ClientAccount:
    """A client in the view of an operator.

    Attributes:
        name: the client's name.
        host: the registered machine.
        path: the registered folder there.
        quota: maximum bytes; None for the quota of the running server.
        used: bytes stored.
        snapshots: number of snapshots.
        last_backup: arrival of the newest snapshot, in seconds since 1970; None without snapshots.
        keys: number of valid keys.
        shares: whether equal chunks are shared with other clients.
        unusual: a sentence about an unusual number of snapshots; None for a usual one.
    """

    name: str
    host: str
    path: str
    quota: int | None
    used: int
    snapshots: int
    last_backup: float | None
    keys: int
    shares: bool
    unusual: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON."""
        return asdict(self)


class StoreManager:
    """The accounts of a store, changed by an operator; each change is logged."""

    def __init__(self, folder: StoreFolder, database: sqlite3.Connection) -> None:
        self._folder, self._database = folder, database

    @classmethod
    @contextmanager
    def opened(cls, folder: StoreFolder) -> Iterator[StoreManager]:
        """Open an existing store.

        Raises:
            UsageError: no backup server has worked in the folder.
            LocalDiskError, WrongStore: the database cannot be used.
        """
        folder.check()
        with closing(connect(folder.database)) as database:
            yield cls(folder, database)

    def invite(
        self, seconds: float, client: str | None = None, *, read_only: bool = False, replaces: bool = False
    ) -> str:
        """Return the text of a new invitation; see ``make_invitation``.

        Raises:
            UsageError: there is no such client.
        """

        def work(database: sqlite3.Connection) -> str:
            now = time.time()
            text = make_invitation(
                database, now, now + seconds, client=client, read_only=read_only, replaces=replaces
            )
            words = (
                f"{'read-only ' if read_only else ''}{'replacing ' if replaces else ''}for {seconds:.0f} s"
            )
            add_entry(database, now, client or "", LOCAL, "invite", words)
            return text

        return self._write(work)

    def revoke(self, client: str) -> int:
        """Revoke the keys of a client, and return how many there were.

        Raises:
            UsageError: there is no such client.
        """

        def work(database: sqlite3.Connection) -> int:
            count = revoke(database, client, time.time())
            add_entry(database, time.time(), client, LOCAL, "revoke", f"{count} keys")
            return count

        return self._write(work)

    def set_quota(self, client: str, quota: int | None) -> None:
        """Set the maximum bytes of a client; None for the quota of the running server.

        Raises:
            UsageError: no client has this name.
        """

        def work(database: sqlite3.Connection) -> None:
            set_quota(database, client, quota)
            words = _NO_QUOTA if quota is None else format_size(quota)
            add_entry(database, time.time(), client, LOCAL, "quota", words)

        self._write(work)

    def clients(self, only: str | None = None) -> list[ClientAccount]:
        """Return the clients by name, or one of them.

        Raises:
            UsageError: there is no client of the name.
        """

        def work(database: sqlite3.Connection) -> list[ClientAccount]:
            if only is not None:
                find_client(database, only)
            return [facts for facts in _facts(database, time.time()) if only in (None, facts.name)]

        return self._read(work)

    def log(self, client: str | None = None) -> list[LogEntry]:
        """Return the log, oldest entry first; of one client, or all."""
        return self._read(lambda database: list(read_entries(database, client)))

    def record(self, action: str, detail: str) -> None:
        """Log an operator's act on the whole store."""
        self._write(lambda database: add_entry(database, time.time(), "", LOCAL, action, detail))

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return in_transaction(self._database, self._folder.database, "IMMEDIATE", work)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return in_transaction(self._database, self._folder.database, "DEFERRED", work)


@contextmanager
def one_prune(folder: StoreFolder) -> Iterator[None]:
    """Hold the lock of the one prune at a time.

    Raises:
        LocalDiskError: another prune runs, or the lock can't be made.
    """
    with disk_errors("could not prune", folder.root), locked(folder.prune_lock, LOCK_WAIT):
        yield


def _facts(database: sqlite3.Connection, now: float) -> Iterator[ClientAccount]:
    """Yield the clients by name."""
    rows = database.execute("SELECT number, name, host, path, quota, shares FROM client ORDER BY name")
    for number, name, host, path, quota, shares in rows.fetchall():
        snapshots, last = database.execute(
            "SELECT count(*), max(arrived) FROM snapshot WHERE client = ?", (number,)
        ).fetchone()
        (keys,) = database.execute(
            "SELECT count(*) FROM credential WHERE client = ? AND revoked IS NULL", (number,)
        ).fetchone()
        watched = arrivals(database, number, now - WATCHED_DAYS * DAY)
        yield ClientAccount(
            name,
            host,
            path,
            quota,
            used_bytes(database, number),
            snapshots,
            last,
            keys,
            bool(shares),
            unusual_count(watched, now),
        )
