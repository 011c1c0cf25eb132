"""A store that joins several stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from shardcast.blobs.interface import BlobStore, BlobWriter
from shardcast.errors import BlobCorrupt, BlobMissing, LocalDiskError, UsageError
from shardcast.store.file_errors import BlobSearch
from shardcast.store.interfaces import BlobReader


class BlobUnion:
    """A ``BlobStore`` with the blobs of all its stores.

    A blob is read from the first store that has it right, and put into the first store.

    Attributes:
        algorithm: the digest of all stores.
    """

    def __init__(self, stores: Sequence[BlobStore]) -> None:
        """Join stores of one algorithm.

        Raises:
            UsageError: there is no store, or they are of several algorithms.
        """
        algorithms = {store.algorithm for store in stores}
        if len(algorithms) != 1:
            raise UsageError(
                f"stores of {', '.join(sorted(algorithms)) or 'nothing'} don't go together; "
                "name stores of one algorithm"
            )
        self.algorithm = algorithms.pop()
        self._stores = tuple(stores)

    async def size(self, digest: str) -> int | None:
        search = BlobSearch()
        for store in self._stores:
            try:
                size = await store.size(digest)
            except LocalDiskError as error:
                search.add_error(error)
                continue
            if size is not None:
                return size
        search.check()
        return None

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[BlobReader]:
        search, corrupt = BlobSearch(), None
        async with AsyncExitStack() as stack:
            for store in self._stores:
                try:
                    reader = await stack.enter_async_context(store.open(digest))
                except BlobMissing:
                    continue
                except BlobCorrupt as error:
                    corrupt = corrupt or error
                    continue
                except LocalDiskError as error:
                    search.add_error(error)
                    continue
                yield reader
                return
        search.check()
        raise corrupt or BlobMissing(f"{digest} is in none of {len(self._stores)} stores")

    async def read_small(self, digests: Sequence[str], max_size: int) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        search = BlobSearch()
        for store in self._stores:
            missing = [digest for digest in digests if digest not in found]
            if not missing:
                return found
            try:
                found |= await store.read_small(missing, max_size)
            except LocalDiskError as error:
                search.add_error(error)
        if len(found) < len(set(digests)):
            search.check()
        return found

    def put(self, digest: str | None = None) -> AbstractAsyncContextManager[BlobWriter]:
        return self._stores[0].put(digest)

    async def delete(self, digest: str) -> bool:
        """Remove a blob from every store that has it.

        Raises:
            ReadOnlyStore: a store that has it is read-only; then it is still here.
        """
        found = False
        for store in reversed(self._stores):  # read-only stores come last, and must fail first
            if await store.size(digest) is not None:
                found = await store.delete(digest) or found
        return found

    async def digests(self) -> AsyncIterator[str]:
        for position, store in enumerate(self._stores):
            async for digest in store.digests():
                if not await self._in(self._stores[:position], digest):
                    yield digest

    async def _in(self, stores: Sequence[BlobStore], digest: str) -> bool:
        for store in stores:
            if await store.size(digest) is not None:
                return True
        return False
