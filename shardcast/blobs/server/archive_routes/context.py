"""The context of an archive's routes: its blobs, its access statistics, and the source of missing blobs."""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

from shardcast.blobs.access_stats import AccessStats
from shardcast.blobs.interface import BlobStore


class Upstream(Protocol):
    """A source of missing blobs; ``via`` are the ids of the nodes on the request's way so far."""

    def fetch(self, wanted: Mapping[str, int], via: Sequence[str]) -> AsyncGenerator[str, None]:
        """Fetch blobs of these lengths into the store, and yield the key of each on its arrival."""

    async def fetch_one(self, key: str, via: Sequence[str]) -> bool:
        """Fetch a blob into the store, and return whether it arrived.

        Raises:
            PeerError: no server had the blob, and one did not answer.
            LocalDiskError: the blob cannot be stored.
        """


class Staging(Protocol):
    """Blobs put together (``directory.staging``)."""

    @property
    def blobs(self) -> BlobStore:
        """The store for putting them, seen by no reader."""

    def publish(self) -> AsyncGenerator[Sequence[str], None]:
        """Name all the blobs, and yield the digests of the named ones, some at a time.

        Raises:
            LocalDiskError: a blob cannot be named; those before it are.
        """


@dataclass
class ArchiveContext:
    """The context shared by the routes of an archive.

    Attributes:
        store: the blobs, of SHA-256.
        access_stats: times of puts, and numbers of pulls.
        stage: opens a place for the blobs of a push, discarded unless published; None for a read-only store.
        max_blob: maximum bytes of a pushed blob.
        token: allows pushes at any port; None for no token.
        upstream: fetches missing blobs; None for an archive without a mirror.
        hits: number of requested blobs found in the store.
    """

    store: BlobStore
    access_stats: AccessStats
    stage: Callable[[], AbstractAsyncContextManager[Staging]] | None
    _: KW_ONLY
    max_blob: int
    token: str | None = field(default=None, repr=False)
    upstream: Upstream | None = None
    hits: int = 0

    def is_push_token(self, bearer: str) -> bool:
        """Return whether credentials are the token for pushes at any port."""
        if self.token is None:
            return False
        return hmac.compare_digest(bearer.encode(errors="replace"), self.token.encode())
