"""The shards that a transfer has under way: opened ahead of the whole digest, released behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from shardcast.concurrency import Notifier
from shardcast.errors import LocalLimit
from shardcast.protocol.manifest import Shard
from shardcast.store.interfaces import ShardSink
from shardcast.store.landing import Landing, close_landings
from shardcast.store.live_manifest import LiveManifest
from shardcast.transfer.ranges import RangeTask, ShardDownload

_READY = 2
"""Ranges that wait for a worker, so that none waits for a shard to be opened."""
_MAX_WANTED = 4
"""Shards that a local reader waits for, and that are asked for beyond the look-ahead."""
_MAX_LAG = 3
"""Whole shards that the digest has yet to read, at which no others are asked for."""


class OpenShards:
    """The shards of one transfer, from the opening of their landings to the end of their hashing."""

    def __init__(self, manifest: LiveManifest, sink: ShardSink, look_ahead: int, notifier: Notifier) -> None:
        """Open landings in ``sink``, no further than ``look_ahead`` shards beyond the last one hashed."""
        self._manifest = manifest
        self._sink = sink
        self._look_ahead = look_ahead
        self._notifier = notifier
        self._downloads: dict[int, ShardDownload] = {}
        self._todo: deque[RangeTask] = deque()
        self._started: set[int] = set()
        self._opening = 0
        self._started_all = False
        self._hashed = 0
        self._released_bytes = 0
        self._released_shards = 0

    @property
    def bytes_done(self) -> int:
        """Bytes that are verified and here."""
        return self._released_bytes + sum(one.landing.landed for one in self._downloads.values())

    @property
    def shards_done(self) -> int:
        """Whole shards."""
        return self._released_shards + sum(one.landing.whole for one in self._downloads.values())

    @property
    def all_whole(self) -> bool:
        """Whether every shard of the version is whole."""
        return self._opened_all and all(one.landing.whole for one in self._downloads.values())

    @property
    def _opened_all(self) -> bool:
        return self._started_all and not self._opening

    @property
    def _reach(self) -> int:
        """The last shard that the whole digest can read from memory."""
        return self._hashed + self._look_ahead

    @property
    def digest_lags(self) -> bool:
        """Whether the whole digest lags so far behind that it needs the processor more than new shards do."""
        # Shards that readers wait for are opened before their turn, so that one between may not be open.
        following = map(self._downloads.get, range(self._hashed + 1, self._hashed + _MAX_LAG + 1))
        return all(one is not None and one.landing.whole for one in following)

    # Opening

    async def open_ahead(self) -> None:
        """Open shards just before they are needed, as far ahead of the whole digest as they may be."""
        async for shard in self._manifest.as_they_come():
            while shard.number not in self._started:
                if len(self._todo) < _READY and shard.number <= self._reach:
                    await self._open(shard, self._todo.extend)
                else:
                    await self._notifier.change()
        self._started_all = True
        self._notifier.notify()

    async def open_wanted(self) -> None:
        """Open the shards that local readers wait for before the others; for ever."""
        while True:
            shard = await self._sink.wanted()
            while sum(number > self._reach for number in self._downloads) >= _MAX_WANTED:
                await self._notifier.change()
            if shard.number not in self._started:
                await self._open(shard, lambda tasks: self._todo.extendleft(reversed(tasks)))

    async def _open(self, shard: Shard, put: Callable[[list[RangeTask]], None]) -> None:
        """Open a shard's landing, and ``put`` what is missing of it where workers take it from."""
        self._started.add(shard.number)
        self._opening += 1
        download = ShardDownload(await self._open_landing(shard))
        self._opening -= 1
        self._downloads[shard.number] = download
        put([RangeTask(download, start, end) for start, end in download.landing.missing()])
        self._notifier.notify()
        if download.landing.whole:
            await self.commit(download)

    async def _open_landing(self, shard: Shard) -> Landing:
        """Open a landing; where this machine has no descriptors for it, once another one is closed.

        Raises:
            LocalLimit: only later shards are open, and none of them closes before this one has been hashed.
        """
        while True:
            try:
                return await self._sink.landing(shard)
            except LocalLimit:
                if all(number > shard.number for number in self._downloads):
                    raise
            max_open = len(self._downloads)
            while len(self._downloads) >= max_open:
                await self._notifier.change()

    # What workers and the digest take

    def next_range(self) -> RangeTask | None:
        """Take the next range that no worker has; None when none is open."""
        if not self._todo:
            return None
        self._notifier.notify()  # there is room for another
        return self._todo.popleft()

    def may_lose(self, download: ShardDownload) -> bool:
        """Return whether to split a shard's ranges.

        As long as shards wait for the look-ahead, only the shard that keeps it from moving on matters.
        """
        return self._opened_all or download.landing.shard.number == self._hashed + 1

    async def landing(self, number: int) -> Landing:
        """Return the landing of a shard, once it is open."""
        while number not in self._downloads:
            await self._notifier.change()
        return self._downloads[number].landing

    # Ends

    def mark_hashed(self, number: int) -> None:
        """Note that the whole digest has read a shard, and all before it."""
        self._hashed = number
        self._downloads[number].hashed = True
        self._release(number)

    async def commit(self, download: ShardDownload) -> None:
        """Hand a whole shard over to the sink, once."""
        if download.committing:
            return
        download.committing = True
        await self._sink.shelve(download.landing)
        download.committed = True
        self._release(download.landing.shard.number)

    def _release(self, number: int) -> None:
        """Close the landing of a shard that is committed and hashed."""
        download = self._downloads[number]
        if download.committed and download.hashed:
            download.landing.close()
            del self._downloads[number]
            self._released_bytes += download.landing.shard.size
            self._released_shards += 1
        self._notifier.notify()

    async def close(self) -> None:
        """Close all landings."""
        await close_landings([download.landing for download in self._downloads.values()])
