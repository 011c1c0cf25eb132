"""The state of a backup server, shared by its routes."""

from __future__ import annotations

import asyncio
from dataclasses import KW_ONLY, dataclass, field

from shardcast.access.wrong_tokens import WrongTokens
from shardcast.backup.server.backup_store import BackupStore

MAX_UPLOADS = 16
"""Maximum packs arriving at a time; others wait."""
MAX_PROVING = 2
"""Maximum requests at a time whose proofs are verified; others wait."""


@dataclass(frozen=True)
class BackupRules:
    """Rules for clients of a backup server.

    Attributes:
        append_only: whether a client needs the admin key to forget snapshots.
        min_age: seconds after arrival during which a snapshot cannot be forgotten.
        quota: maximum bytes of a client without a quota of its own; None for no bound.
        dedupe_clients: whether new clients share equal chunks with each other.
    """

    append_only: bool = False
    min_age: float = 0.0
    quota: int | None = None
    dedupe_clients: bool = False


@dataclass
class BackupServerState:
    """The state of a backup server.

    Attributes:
        store: the accounts, packs and snapshots.
        rules: for clients.
        admin_key: the key for deleting from an append-only server.
        wrong_keys: addresses that recently sent wrong keys or invitations.
        uploads: admits a bounded number of packs at a time.
        proving: admits a bounded number of requests with proofs at a time.
    """

    store: BackupStore
    rules: BackupRules
    admin_key: str = field(repr=False)
    _: KW_ONLY
    wrong_keys: WrongTokens = field(default_factory=WrongTokens)
    uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_UPLOADS))
    proving: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_PROVING))
