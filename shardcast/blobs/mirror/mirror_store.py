"""A mirror: a store that fetches requested blobs from other servers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager

from shardcast.blobs.framing import MAX_LENGTH
from shardcast.blobs.interface import BlobStore, BlobWriter
from shardcast.blobs.mirror.absence_cache import AbsenceCache
from shardcast.blobs.mirror.fetch_table import FetchTable, batches
from shardcast.blobs.mirror.pending_fetch import DIRECT, PendingFetch, Wanted
from shardcast.blobs.mirror.server_fetcher import BlobServer, MirrorCounts, ServerFetcher
from shardcast.concurrency import cancel
from shardcast.constants import STALL_WHEN_OTHERS_CAN
from shardcast.errors import BlobCorrupt, BlobMissing, LocalDiskError, ShardcastError
from shardcast.store.interfaces import BlobReader

ABSENCE_SECONDS = 30.0
"""Seconds of remembering the absence of a blob at all servers."""


class MirrorStore:
    """A store that fetches requested, missing blobs from other servers, and keeps them.

    Blobs are put into the local store alone, and deleted from there alone.

    Attributes:
        algorithm: the digest of all its blobs.
        counts: the counters of its fetches.
    """

    def __init__(
        self,
        local: BlobStore,
        servers: Sequence[BlobServer],
        node_id: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        absence_seconds: float = ABSENCE_SECONDS,
        max_length: int = MAX_LENGTH,
        patience: float = STALL_WHEN_OTHERS_CAN,
    ) -> None:
        """Mirror ``servers`` into ``local``.

        Args:
            local: the store to keep blobs in.
            servers: the servers, in the order of asking.
            node_id: the name of this mirror to the servers, so a request that comes back is not forwarded
                again.
            clock: a monotonic clock, in seconds.
            absence_seconds: seconds of remembering the absence of a blob at all servers.
            max_length: maximum bytes of a fetched blob, checked where the requester names the length.
            patience: seconds without progress until the next server is asked as well.
        """
        self.algorithm = local.algorithm
        self.counts = MirrorCounts()
        self._local = local
        self._pending = FetchTable(
            ServerFetcher(local, servers, node_id, self.counts, clock=clock, patience=patience),
            AbsenceCache(absence_seconds, clock),
            self.counts,
            node_id=node_id,
            max_length=max_length,
        )

    async def size(self, digest: str) -> int | None:
        """Return the number of bytes of a blob, or None for one not here yet; no server is asked."""
        return await self._local.size(digest)

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[BlobReader]:
        """Read a blob, fetched first if absent or damaged here.

        Raises:
            BlobMissing: no server has the blob.
            BlobCorrupt: the local bytes are wrong, and no server has the blob.
            PeerError: the blob isn't here, and a server possibly with the blob couldn't be asked.
        """
        async with AsyncExitStack() as stack:
            try:
                reader = await stack.enter_async_context(self._local.open(digest))
            except (BlobMissing, BlobCorrupt):
                if not await self.fetch_one(digest):
                    raise
                reader = await stack.enter_async_context(self._local.open(digest))
            yield reader

    async def read_small(self, digests: Sequence[str], max_size: int) -> dict[str, bytes]:
        """See ``BlobStore``; of the blobs here by now."""
        return await self._local.read_small(digests, max_size)

    def put(self, digest: str | None = None) -> AbstractAsyncContextManager[BlobWriter]:
        """See ``BlobStore``."""
        return self._local.put(digest)

    async def delete(self, digest: str) -> bool:
        """See ``BlobStore``."""
        return await self._local.delete(digest)

    def digests(self) -> AsyncIterator[str]:
        """See ``BlobStore``; the blobs here by now."""
        return self._local.digests()

    async def close(self) -> None:
        """Cancel the unfinished fetches."""
        await self._pending.close()

    async def fetch_one(self, key: str, via: Sequence[str] = ()) -> bool:
        """Fetch one blob for a request through the nodes ``via``, and return whether it arrived.

        Raises:
            PeerError: no server had the blob, and one did not answer.
            LocalDiskError: the blob cannot be stored.
        """
        wanted, own = (key, None), frozenset(via)
        fetch = self._pending.join_or_start([wanted], via).get(wanted)
        if fetch is None:
            return False
        if fetch.via not in (own, DIRECT):
            with contextlib.suppress(ShardcastError):
                if await self._pending.wait(wanted, fetch, via):
                    return True
            # The joined fetch spared other nodes than this request would, so its failure says nothing here.
            fetch = self._pending.start([wanted], via, shared=False)[wanted]
        return await self._pending.wait(wanted, fetch, via)

    async def fetch(self, wanted: Mapping[str, int], via: Sequence[str] = ()) -> AsyncGenerator[str, None]:
        """Fetch blobs of these lengths, and yield the key of each on its arrival.

        Missing and failed blobs are left out.

        Raises:
            LocalDiskError: a blob cannot be stored; raised after the arrival of all others.
        """
        own = frozenset(via)
        fetches = self._pending.join_or_start(wanted.items(), via)
        uncertain = {item[0]: item for item, fetch in fetches.items() if fetch.via not in (own, DIRECT)}
        async with aclosing(self._arrivals(fetches, via)) as arrived:
            async for key in arrived:
                uncertain.pop(key, None)
                yield key
        for batch in batches(list(uncertain.values())):
            again = self._pending.start(batch, via, shared=False)
            async with aclosing(self._arrivals(again, via)) as arrived:
                async for key in arrived:
                    yield key

    async def _arrivals(
        self, fetches: Mapping[Wanted, PendingFetch], via: Sequence[str]
    ) -> AsyncGenerator[str, None]:
        """Yield the key of each blob on its arrival; see ``fetch`` for the errors."""
        keys = {
            asyncio.ensure_future(self._pending.wait(wanted, fetch, via)): wanted[0]
            for wanted, fetch in fetches.items()
        }
        waiting, disk_error = set(keys), None
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                outcomes = [(keys[task], task.exception() or task.result()) for task in done]
                for key, outcome in outcomes:
                    if outcome is True:
                        yield key
                    elif isinstance(outcome, LocalDiskError):
                        disk_error = disk_error or outcome
                    elif isinstance(outcome, BaseException) and not isinstance(outcome, ShardcastError):
                        raise outcome
            if disk_error:
                raise disk_error
        finally:
            await cancel(waiting)
