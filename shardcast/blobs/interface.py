"""The interface of stores of bytes under their digest.

A blob is immutable, and named by the digest of its bytes. A store returns verified bytes only: bytes with
another digest than their name are repaired by the next put, or set aside, and never served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from shardcast.store.interfaces import BlobReader

ALGORITHMS = ("sha256", "sha3-256")
"""The digest algorithms of stores; a digest has 32 bytes, written as 64 lower-case hex digits."""


class BlobWriter(Protocol):
    """A blob being put; no reader sees it before ``commit``."""

    async def write(self, data: bytes | memoryview, /) -> None:
        """Append bytes to the blob.

        Raises:
            LocalDiskError: they can't be kept.
        """

    async def commit(self) -> str:
        """Store the blob durably, and return its digest; wrong bytes under this digest are replaced.

        Raises:
            IntegrityError: the digest is not the named one; nothing was kept.
            LocalDiskError: the blob cannot be stored.
        """


class BlobStore(Protocol):
    """A store of blobs.

    Attributes:
        algorithm: one of ``ALGORITHMS``.
    """

    algorithm: str

    async def size(self, digest: str) -> int | None:
        """Return the number of bytes of a blob, unverified, or None for a missing one."""

    def open(self, digest: str) -> AbstractAsyncContextManager[BlobReader]:
        """Open a verified blob for reading.

        Raises:
            BlobMissing: the blob isn't here.
            BlobCorrupt: the bytes here have another digest.
            LocalDiskError: the blob can't be read.
        """

    async def read_small(self, digests: Sequence[str], max_size: int) -> dict[str, bytes]:
        """Return the bytes of these blobs by digest, without missing, wrong or too long ones.

        All are read in one step; a step for each would cost more than the reading.

        Args:
            digests: the blobs; the caller ensures that they fit into memory together.
            max_size: maximum bytes of a returned blob.

        Raises:
            LocalDiskError: the blobs cannot be read.
        """

    def put(self, digest: str | None = None) -> AbstractAsyncContextManager[BlobWriter]:
        """Put a blob with a known ``digest``, or with the digest of the written bytes.

        The context keeps nothing without ``commit``. Concurrent puts of the same blob run side by side, and
        one of them is kept.

        Raises:
            ReadOnlyStore: nothing can be put here.
        """

    async def delete(self, digest: str) -> bool:
        """Remove a blob, and return whether it existed.

        Raises:
            ReadOnlyStore: the store removes no blobs.
        """

    def digests(self) -> AsyncIterator[str]:
        """Yield the digests of the blobs here, in no order.

        A blob put or removed meanwhile may be yielded or not.
        """
