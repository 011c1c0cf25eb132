"""The state of a hash server, which its routes share."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.lock_files import ExternalLocks
from shardcast.blobs.server.hash_routes.activity import Activity
from shardcast.blobs.server.hash_routes.uploads import Promises, Uploads

LOCK_SECONDS = 120.0
"""Seconds after its last touch for which a lock file holds."""


@dataclass
class HashServerState:
    """The state of a hash server.

    Attributes:
        store: the blobs that are served.
        lock_seconds: seconds after its last touch for which an external lock holds.
        promises: blobs that a client announced.
        uploads: blobs that arrive now.
        activity: the requests that are answered now.
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
