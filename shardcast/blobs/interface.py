"""The contract of stores that keep bytes under their digest.

A blob is immutable, and named by the digest of its bytes. What a store can't vouch for it doesn't give: bytes
that are not what their name says are repaired from what is put, or set aside, and never served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from shardcast.store.interfaces import BlobReader

ALGORITHMS = ("sha256", "sha3-256")
"""The digests that a store can be of; each has 32 bytes, written as 64 lower-case hex digits."""


class BlobWriter(Protocol):
    """A blob that is being put; nobody sees it before ``commit``."""

    async def write(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes.

        Raises:
            LocalDiskError: they can't be kept.
        """

    async def commit(self) -> str:
        """Keep it, durably; its digest. What was there under it and is wrong is replaced.

        Raises:
            IntegrityError: it is not what it was said to be; nothing was kept.
            LocalDiskError: it can't be kept.
        """


class BlobStore(Protocol):
    """A store.

    Attributes:
        algorithm: one of ``ALGORITHMS``.
    """

    algorithm: str

    async def size(self, digest: str) -> int | None:
        """Bytes of a blob; None where it isn't here. Nothing is verified for it."""

    def open(self, digest: str) -> AbstractAsyncContextManager[BlobReader]:
        """Read a blob.

        Raises:
            BlobMissing: it isn't here.
            BlobCorrupt: what is here is not what its digest says.
            LocalDiskError: it can't be read.
        """

    async def read_small(self, digests: Sequence[str], most: int) -> dict[str, bytes]:
        """The bytes of those of these blobs that are here, right, and ``most`` bytes long at the most; the
        others are left out. One step for many, since a step for each costs more than reading it; who asks
        sees to it that they fit into memory together.

        Raises:
            LocalDiskError: they can't be read.
        """

    def put(self, digest: str | None = None) -> AbstractAsyncContextManager[BlobWriter]:
        """Put a blob, whose ``digest`` is known or found out. Left without ``commit``, it keeps nothing.
        Several who put the same one at once do so side by side, and one of them is kept.

        Raises:
            ReadOnlyStore: nothing can be put here.
        """

    async def delete(self, digest: str) -> bool:
        """Remove a blob; whether it was here.

        Raises:
            ReadOnlyStore: nothing can be removed here.
        """

    def digests(self) -> AsyncIterator[str]:
        """The blobs that are here, in no order; one that comes or goes meanwhile may be told of or not."""
