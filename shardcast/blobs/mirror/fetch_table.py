"""The unfinished fetches of a mirror, one for all requests for the same blob."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence

from shardcast.blobs.framing import MAX_KEYS
from shardcast.blobs.mirror.absence_cache import AbsenceCache
from shardcast.blobs.mirror.pending_fetch import DIRECT, PendingFetch, Wanted
from shardcast.blobs.mirror.server_fetcher import MirrorCounts, ServerFetcher
from shardcast.concurrency import cancel
from shardcast.errors import ServerUnreachable, ShardcastError
from shardcast.protocol.wire import MAX_VIA

_START_WAIT = 1.0
"""Seconds for a forwarded request to wait for another request's fetch to start: mirrors of each other may
wait for each other."""


class FetchTable:
    """The fetches under way, by digest and length. Of the event loop alone."""

    def __init__(
        self,
        fetcher: ServerFetcher,
        absent: AbsenceCache,
        counts: MirrorCounts,
        *,
        node_id: str,
        max_length: int,
    ) -> None:
        """Fetch with ``fetcher`` and count in ``counts``.

        Blobs of more than ``max_length`` bytes are not fetched, nor are requests that came through
        ``node_id``, this node, before.
        """
        self._fetcher = fetcher
        self._absent = absent
        self._counts = counts
        self._node_id = node_id
        self._max_length = max_length
        self._shared: dict[Wanted, PendingFetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._shared)

    async def close(self) -> None:
        """Cancel the unfinished fetches."""
        await cancel(list(self._tasks))

    def join_or_start(self, wanted: Iterable[Wanted], via: Sequence[str]) -> dict[Wanted, PendingFetch]:
        """Return a fetch for each blob possibly at a server: an unfinished one, or a new one.

        Too long and recently absent blobs are left out; all are for a request that came through this node
        before, or through too many nodes.
        """
        if self._node_id in via or len(via) >= MAX_VIA:
            return {}
        own, fetches = frozenset(via), dict[Wanted, PendingFetch]()
        new: list[Wanted] = []
        for item in wanted:
            if (item[1] or 0) > self._max_length:
                continue
            if self._absent.has(item, DIRECT) or self._absent.has(item, own):
                self._counts.lacking += 1
            elif item in self._shared:
                self._counts.joined += 1
                fetches[item] = self._shared[item]
            else:
                new.append(item)
        for batch in batches(new):
            fetches |= self.start(batch, via, shared=True)
        return fetches

    def start(self, wanted: Sequence[Wanted], via: Sequence[str], shared: bool) -> dict[Wanted, PendingFetch]:
        """Start one fetch for a batch of blobs; other requests join only a ``shared`` one."""
        own = frozenset(via)
        fetches = {item: PendingFetch(own) for item in wanted}
        if shared:
            self._shared |= fetches
        task = asyncio.ensure_future(self._run(fetches, via, shared))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return fetches

    async def wait(self, wanted: Wanted, fetch: PendingFetch, via: Sequence[str]) -> bool:
        """Return whether a blob arrived, after the end of its fetch; another request may have started it.

        A forwarded request (``via``) waits a second for the first bytes, and then starts a fetch of its own.

        Raises:
            ShardcastError: a server possibly with the blob couldn't be asked, or the blob couldn't be kept.
        """
        if via and not fetch.started.is_set():
            try:
                async with asyncio.timeout(_START_WAIT):
                    await fetch.started.wait()
            except TimeoutError:
                fetch = self.start([wanted], via, shared=False)[wanted]
        return await asyncio.shield(fetch.outcome)

    async def _run(self, fetches: Mapping[Wanted, PendingFetch], via: Sequence[str], shared: bool) -> None:
        """Ask the servers, and settle every fetch, also when this task is cancelled.

        Blobs at none of the servers are counted, and remembered as absent.
        """
        failure: ShardcastError | None = ServerUnreachable("the mirror", "it ended before it had asked")
        try:
            failure = await self._fetcher.fetch(fetches, via)
        finally:
            for item, fetch in fetches.items():
                if shared and self._shared.get(item) is fetch:
                    del self._shared[item]
                if not fetch.outcome.done() and failure is None:
                    self._counts.lacking += 1
                    self._absent.add(item, fetch.via)
                fetch.end(False, failure)


def batches(wanted: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    """Yield the blobs in slices for one pull each."""
    return (wanted[start : start + MAX_KEYS] for start in range(0, len(wanted), MAX_KEYS))
