"""The open shards of a transfer: ranges for the workers, landings for the digest, and their ends."""

from __future__ import annotations

from collections import deque

from shardcast.concurrency import Notifier
from shardcast.store.interfaces import ShardSink
from shardcast.store.landing import Landing, close_landings
from shardcast.transfer.ranges import RangeTask, ShardDownload

_MAX_LAG = 3
"""Whole shards still unread by the digest at which no other shards are requested."""


class OpenShards:
    """The open shards of one transfer; a committed and hashed shard is released.

    Attributes:
        opened_all: whether every shard of the version has been opened.
        paused: whether the workers get no ranges, since the pieces come by another way.
    """

    def __init__(self, sink: ShardSink, look_ahead: int, notifier: Notifier) -> None:
        """Commit shards to ``sink``; ``look_ahead``: shards open beyond the last one hashed."""
        self.opened_all = False
        self.paused = False
        self._sink = sink
        self._look_ahead = look_ahead
        self._notifier = notifier
        self._downloads: dict[int, ShardDownload] = {}
        self._todo: deque[RangeTask] = deque()
        self._hashed = 0
        self._released_bytes = 0
        self._released_shards = 0

    # How far the transfer is

    @property
    def numbers(self) -> list[int]:
        """The numbers of the open shards."""
        return list(self._downloads)

    @property
    def bytes_done(self) -> int:
        """Local, verified bytes."""
        return self._released_bytes + sum(
            download.landing.verified_bytes for download in self._downloads.values()
        )

    @property
    def shards_done(self) -> int:
        """Whole shards."""
        return self._released_shards + sum(download.landing.whole for download in self._downloads.values())

    @property
    def all_whole(self) -> bool:
        """Whether every shard of the version is whole."""
        return self.opened_all and all(download.landing.whole for download in self._downloads.values())

    @property
    def all_committed(self) -> bool:
        """Whether the sink has every shard of the version."""
        return self.opened_all and all(download.committed for download in self._downloads.values())

    @property
    def reach(self) -> int:
        """The number of the last shard still in memory for the whole digest."""
        return self._hashed + self._look_ahead

    @property
    def digest_lags(self) -> bool:
        """Whether the whole digest lags far behind: hashing needs the processor more than new shards do."""
        # Shards with waiting readers are opened before their turn, so one between may not be open.
        following = map(self._downloads.get, range(self._hashed + 1, self._hashed + _MAX_LAG + 1))
        return all(download is not None and download.landing.whole for download in following)

    @property
    def overdue(self) -> int | None:
        """The shard awaited by the whole digest, once half of the look-ahead is open behind it."""
        number = self._hashed + 1
        if 2 * (max(self._downloads, default=0) - number) < self._look_ahead:
            return None
        return number if number in self._downloads else None

    # Ranges and landings

    @property
    def landings(self) -> list[Landing]:
        """The landings of the open shards, by the shards' numbers."""
        return [download.landing for _, download in sorted(self._downloads.items())]

    def find(self, number: int) -> ShardDownload | None:
        """Return an open shard; None for others."""
        return self._downloads.get(number)

    def is_released(self, number: int) -> bool:
        """Return whether a shard was committed and hashed, and so is no longer open."""
        return number <= self._hashed and number not in self._downloads

    @property
    def ranges_ready(self) -> int:
        """Number of ranges without a worker."""
        return len(self._todo)

    def add(self, download: ShardDownload, *, first: bool) -> None:
        """Offer the missing ranges of a shard to the workers, before all others or after them."""
        self._downloads[download.landing.shard.number] = download
        tasks = [] if self.paused else _missing_of(download)
        if first:
            self._todo.extendleft(reversed(tasks))
        else:
            self._todo.extend(tasks)
        self._notifier.notify()

    def pause(self) -> None:
        """Offer the workers no range, until ``resume``."""
        self.paused = True
        self._todo.clear()
        self._notifier.notify()

    def resume(self) -> None:
        """Offer the workers all missing ranges of the open shards, in order."""
        self.paused = False
        for _, download in sorted(self._downloads.items()):
            self._todo.extend(_missing_of(download))
        self._notifier.notify()

    def next_range(self) -> RangeTask | None:
        """Take the next range without a worker; None when none is ready."""
        if not self._todo:
            return None
        self._notifier.notify()  # another shard may be opened
        return self._todo.popleft()

    def may_lose(self, download: ShardDownload) -> bool:
        """Return whether to split a shard's ranges.

        As long as shards wait for the look-ahead, only the shard in its way matters.
        """
        return self.opened_all or download.landing.shard.number == self._hashed + 1

    async def landing(self, number: int) -> Landing:
        """Return the landing of a shard, once open."""
        while number not in self._downloads:
            await self._notifier.change()
        return self._downloads[number].landing

    # Ends

    def mark_hashed(self, number: int) -> None:
        """Record that the whole digest has read a shard, and all before; close its landing if committed."""
        self._hashed = number
        self._downloads[number].hashed = True
        self._release(number)

    async def commit(self, download: ShardDownload) -> None:
        """Hand a whole shard over to the sink; a second call returns at once, perhaps before the first."""
        if download.committing:
            return
        download.committing = True
        await self._sink.commit_shard(download.landing)
        download.committed = True
        self._release(download.landing.shard.number)

    def _release(self, number: int) -> None:
        """Close the landing of a committed and hashed shard."""
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


def _missing_of(download: ShardDownload) -> list[RangeTask]:
    """Return the missing ranges of a shard, as tasks."""
    return [RangeTask(download, start, end) for start, end in download.landing.missing()]
