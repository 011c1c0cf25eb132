"""The state of a hash server, shared by its routes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.lock_files import ExternalLocks
from shardcast.blobs.server.hash_routes.activity import Activity
from shardcast.blobs.server.hash_routes.uploads import Promises, Uploads

LOCK_SECONDS = 120.0
"""Seconds of a lock file's validity after its last touch."""


@dataclass
class HashServerState:
    """The state of a hash server.

    Attributes:
        store: the served blobs.
        lock_seconds: seconds of an external lock's validity after its last touch.
        promises: blobs announced by clients.
        uploads: arriving blobs.
        activity: the requests being answered.
        locks: lock files of other programs.
    """

    store: BlobDirectory
    lock_seconds: float = LOCK_SECONDS
    _: KW_ONLY
    promises: Promises = field(default_factory=Promises)
    uploads: Uploads = field(default_factory=Uploads)
    activity: Activity = field(default_factory=Activity)
    locks: ExternalLocks = field(init=False)

    def __post_init__(self) -> None:
        self.locks = ExternalLocks(self.lock_seconds)
