"""What an archive's door is to: its blobs, what it writes down of them, and where others come from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

from shardcast.blobs.access_stats import AccessStats
from shardcast.blobs.interface import BlobStore


class Upstream(Protocol):
    """Where what isn't here may come from. ``via``: the nodes that asked already."""

    def fetch(self, wanted: Mapping[str, int], via: Sequence[str]) -> AsyncGenerator[str, None]:
        """Have blobs of these lengths come here; the key of each that has, as soon as it has."""

    async def obtain(self, key: str, via: Sequence[str]) -> bool:
        """Have one come here; whether it has.

        Raises:
            PeerError: nobody could be asked.
        """


class Staging(Protocol):
    """Blobs that are put together (``store.staging``).

    Attributes:
        blobs: where they are put; nobody sees them there.
    """

    @property
    def blobs(self) -> BlobStore: ...

    def publish(self) -> AsyncGenerator[Sequence[str], None]:
        """Give all of them their names; the digests of those that have them, some at a time.

        Raises:
            LocalDiskError: one can't have its name; those before it have theirs.
        """


@dataclass
class ArchiveContext:
    """All of it.

    Attributes:
        store: the blobs, of SHA-256.
        ledger: when they were put, and how often they were asked for.
        stage: a place for the blobs of a push; what isn't published when it is left is gone. None
            where nothing can be put.
        max_blob: bytes of a blob that is pushed.
        token: who bears it may push at any port; None for nobody.
        upstream: None for an archive that is no mirror.
        hits: how many blobs were asked for that were here.
    """

    store: BlobStore
    ledger: AccessStats
    stage: Callable[[], AbstractAsyncContextManager[Staging]] | None
    _: KW_ONLY
    max_blob: int
    token: str | None = field(default=None, repr=False)
    upstream: Upstream | None = None
    hits: int = 0
