"""The state of a backup server, which its routes share."""

from __future__ import annotations

import asyncio
from dataclasses import KW_ONLY, dataclass, field

from shardcast.access.wrong_tokens import WrongTokens
from shardcast.backup.server.backup_store import BackupStore

MAX_UPLOADS = 16
"""Packs that arrive at a time; others wait."""


@dataclass(frozen=True)
class BackupRules:
    """What clients of a backup server may do.

    Attributes:
        append_only: whether a client needs the admin key to forget snapshots.
        min_age: seconds after its arrival for which a snapshot can't be forgotten.
        quota: bytes that a client without a quota of its own may keep; None for no bound.
    """

    append_only: bool = False
    min_age: float = 0.0
    quota: int | None = None


@dataclass
class BackupServerState:
    """The state of a backup server.

    Attributes:
        store: the accounts, packs and snapshots.
        rules: what clients may do.
        admin_key: the key that deletes where the server is append-only.
        wrong_keys: addresses that sent wrong keys or invitations lately.
        uploads: admits so many packs at a time.
    """

    store: BackupStore
    rules: BackupRules
    admin_key: str = field(repr=False)
    _: KW_ONLY
    wrong_keys: WrongTokens = field(default_factory=WrongTokens)
    uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_UPLOADS))
