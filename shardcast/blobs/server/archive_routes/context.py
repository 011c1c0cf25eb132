"""The context of an archive's routes: its blobs, its access statistics, and where missing blobs come from."""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

from shardcast.blobs.access_stats import AccessStats
from shardcast.blobs.interface import BlobStore


class Upstream(Protocol):
    """A source of missing blobs; ``via`` are the ids of the nodes that asked already."""

    def fetch(self, wanted: Mapping[str, int], via: Sequence[str]) -> AsyncGenerator[str, None]:
        """Fetch blobs of these lengths into the store, and yield the key of each once it is there."""

    async def fetch_one(self, key: str, via: Sequence[str]) -> bool:
        """Fetch a blob into the store, and return whether it is there.

        Raises:
            PeerError: no server could be asked.
        """


class Staging(Protocol):
    """Blobs that are put together (``directory.staging``)."""

    @property
    def blobs(self) -> BlobStore:
        """The store in which they are put, seen by no reader."""

    def publish(self) -> AsyncGenerator[Sequence[str], None]:
        """Name all the blobs, and yield the digests of the named ones, some at a time.

        Raises:
            LocalDiskError: a blob can't be named; those before it are.
        """


@dataclass
class ArchiveContext:
    """The context that the routes of an archive share.

    Attributes:
        store: the blobs, of SHA-256.
        access_stats: when blobs were put, and how often they were pulled.
        stage: opens a place for the blobs of a push, discarded where it isn't published; None for a store
            that is only read.
        max_blob: bytes of the largest blob that is pushed.
        token: allows its bearer to push at any port; None for no token.
        upstream: fetches missing blobs; None for an archive that is no mirror.
        hits: requested blobs that were here.
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
        """Return whether a bearer's credentials are the token that allows pushes at any port."""
        if self.token is None:
            return False
        return hmac.compare_digest(bearer.encode(errors="replace"), self.token.encode())
