"""A store of blobs in memory, which stands in for a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from shardcast.digest import new_hasher
from shardcast.errors import BlobMissing, IntegrityError, NoRoom
from shardcast.sizes import format_size
from shardcast.store.interfaces import Span


class BlobsInMemory:
    """A ``BlobStore`` of bounded size that ends with the process.

    Attributes:
        algorithm: one of ``ALGORITHMS``.
        max_bytes: bytes of all its blobs together, those that are being put included.
    """

    def __init__(self, algorithm: str = "sha256", max_bytes: int = 64 << 20) -> None:
        self.algorithm = algorithm
        self.max_bytes = max_bytes
        self._blobs: dict[str, bytes] = {}
        self._taken = 0

    async def size(self, digest: str) -> int | None:
        blob = self._blobs.get(digest)
        return None if blob is None else len(blob)

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[BytesReader]:
        """Open a blob for reading.

        Raises:
            BlobMissing: it isn't here.
        """
        blob = self._blobs.get(digest)
        if blob is None:
            raise BlobMissing(f"{digest} is not here")
        yield BytesReader(blob)

    async def read_small(self, digests: Sequence[str], max_size: int) -> dict[str, bytes]:
        found = ((digest, self._blobs.get(digest)) for digest in digests)
        return {digest: blob for digest, blob in found if blob is not None and len(blob) <= max_size}

    @asynccontextmanager
    async def put(self, digest: str | None = None) -> AsyncIterator[_Writer]:
        writer = _Writer(self, digest)
        try:
            yield writer
        finally:
            self._taken -= writer.taken

    async def delete(self, digest: str) -> bool:
        blob = self._blobs.pop(digest, None)
        self._taken -= len(blob or b"")
        return blob is not None

    async def digests(self) -> AsyncIterator[str]:
        for digest in list(self._blobs):
            yield digest

    def reserve(self, count: int) -> None:
        """Reserve bytes for a blob that is being put.

        Raises:
            NoRoom: there isn't so much room.
        """
        if self._taken + count > self.max_bytes:
            raise NoRoom(
                f"no room for another blob: at most {format_size(self.max_bytes)} are kept in memory"
            )
        self._taken += count

    def keep(self, digest: str, blob: bytes) -> bool:
        """Keep a blob, and return whether it is new."""
        new = digest not in self._blobs
        self._blobs.setdefault(digest, blob)
        return new


class BytesReader:
    """Reader of bytes in memory (a ``BlobReader``)."""

    def __init__(self, blob: bytes) -> None:
        self.size = len(blob)
        self.span: Span | None = None
        self._rest = memoryview(blob)

    async def read(self, max_bytes: int) -> bytes:
        part, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return bytes(part)


class _Writer:
    """A blob that is being put.

    Attributes:
        taken: bytes that it has reserved, and that are not the store's yet.
    """

    def __init__(self, store: BlobsInMemory, digest: str | None) -> None:
        self.taken = 0
        self._store = store
        self._expected = digest
        self._hasher = new_hasher(store.algorithm)
        self._parts: list[bytes] = []

    async def write(self, data: bytes | memoryview, /) -> None:
        self._store.reserve(len(data))
        self.taken += len(data)
        self._hasher.update(data)
        self._parts.append(bytes(data))

    async def commit(self) -> str:
        digest = self._hasher.hexdigest()
        if self._expected not in (None, digest):
            raise IntegrityError(f"put as {self._expected}, the blob has the digest {digest}")
        if self._store.keep(digest, b"".join(self._parts)):
            self.taken = 0
        return digest
