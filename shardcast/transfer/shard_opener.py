"""When a transfer opens a shard: in order ahead of the whole digest, or early for a local reader."""

from __future__ import annotations

from shardcast.concurrency import Notifier
from shardcast.errors import LocalLimit
from shardcast.protocol.manifest import Shard
from shardcast.store.interfaces import ShardSink
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.transfer.open_shards import OpenShards
from shardcast.transfer.ranges import ShardDownload

_READY = 2
"""Ranges kept ready, so no worker waits for a shard to be opened."""
_MAX_WANTED = 4
"""Maximum shards with waiting local readers asked for beyond the look-ahead."""


class ShardOpener:
    """Opens the shards of one version, each once."""

    def __init__(
        self, manifest: LiveManifest, sink: ShardSink, shards: OpenShards, notifier: Notifier
    ) -> None:
        self._manifest = manifest
        self._sink = sink
        self._shards = shards
        self._notifier = notifier
        self._started: set[int] = set()
        self._started_all = False
        self._opening = 0

    async def open_ahead(self) -> None:
        """Open shards just before they are needed, as far ahead of the whole digest as they may be."""
        shards = self._shards
        async for shard in self._manifest.iterate_shards():
            while shard.number not in self._started:
                if shards.ranges_ready < _READY and shard.number <= shards.reach:
                    await self._open(shard, first=False)
                else:
                    await self._notifier.change()
        self._started_all = True
        self._check_all()

    async def open_wanted(self) -> None:
        """Open the shards with waiting local readers before the others; for ever."""
        shards = self._shards
        while True:
            shard = await self._sink.next_wanted()
            while sum(number > shards.reach for number in shards.numbers) >= _MAX_WANTED:
                await self._notifier.change()
            if shard.number not in self._started:
                await self._open(shard, first=True)

    async def _open(self, shard: Shard, *, first: bool) -> None:
        """Open a shard's landing, and queue the shard before all others or after them.

        A whole shard, from an earlier run or another version, is committed at once.
        """
        self._started.add(shard.number)
        self._opening += 1
        download = ShardDownload(await self._open_landing(shard))
        self._shards.add(download, first=first)
        self._opening -= 1
        self._check_all()
        if download.landing.whole:
            await self._shards.commit(download)

    def _check_all(self) -> None:
        """Record, after the last shard was opened, that no other will be."""
        if self._started_all and not self._opening:
            self._shards.opened_all = True
            self._notifier.notify()

    async def _open_landing(self, shard: Shard) -> Landing:
        """Open a landing; without descriptors for it on this machine, after another one was closed.

        Raises:
            LocalLimit: only later shards are open, and none of them closes before this one has been hashed.
        """
        shards = self._shards
        while True:
            try:
                return await self._sink.landing(shard)
            except LocalLimit:
                if all(number > shard.number for number in shards.numbers):
                    raise
            max_open = len(shards.numbers)
            while len(shards.numbers) >= max_open:
                await self._notifier.change()
