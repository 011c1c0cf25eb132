"""A version from its servers into a ShardSink: policy carried out, everything verified."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from shardcast.concurrency import Notifier, cancel
from shardcast.errors import IntegrityError, ShardcastError
from shardcast.peer.server import Peer
from shardcast.protocol.manifest import Manifest
from shardcast.sharding.payload_hasher import PayloadHasher
from shardcast.store.interfaces import ShardSink
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.transfer.limits import Limits, NeighbourProgress, TransferProgress, free_descriptors
from shardcast.transfer.open_shards import OpenShards
from shardcast.transfer.payload_digest import hash_payload
from shardcast.transfer.ranges import RangeTask
from shardcast.transfer.retry_state import RetryState
from shardcast.transfer.scheduler import Scheduler
from shardcast.transfer.servers import Servers
from shardcast.transfer.shard_opener import ShardOpener
from shardcast.transfer.stall_monitor import StallMonitor
from shardcast.waits import Wait

_NEIGHBOURS = ""
"""The name of all neighbours together among the servers' URLs."""


class Transfer:
    """One version being fetched.

    Every shard is requested whole, from the best server; after a failure, missing ranges are requested from
    another one. When no shard is left to request, idle connections take over the second half of the slowest
    range.

    Attributes:
        manifest: the version; an open one's grows while the transfer runs.
        neighbours: returns the progress of the neighbours in a swarm.
    """

    def __init__(
        self,
        manifest: LiveManifest,
        peers: Sequence[Peer],
        sink: ShardSink,
        *,
        digits: int = 3,
        make_manifest: bool = False,
        hash_whole: bool = True,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Fetch a version from ``peers`` into ``sink``, once ``run`` is called.

        Args:
            manifest: the version.
            peers: the version's servers; ``join`` adds others.
            sink: takes the shards.
            digits: digits of the numbers in the shards' names; five at 0.3.x.
            make_manifest: whether to make the manifest from the arriving bytes, for old nodes without one.
            hash_whole: whether to compute and check the payload's digest. If not, the sink checks the digest
                of each shard.
            limits: of the transfer.
            clock: returns seconds; replaced by tests and the simulator, as are ``random`` and ``sleep``.
            random: decides among equal servers, and spreads pauses.
            sleep: pauses.
        """
        self.manifest = manifest
        self._failure: ShardcastError | OSError | None = None
        self.neighbours: Callable[[], NeighbourProgress] = NeighbourProgress
        self._sink = sink
        self._survey = make_manifest
        self._hash_whole = hash_whole
        self._limits = limits = (limits or Limits()).within(free_descriptors())
        self._notifier = notifier = Notifier()
        random = random or Random()
        max_width = limits.answers_for(manifest.header.piece_size)
        self._servers = servers = Servers(peers, max_width, clock, random)
        retries = RetryState(servers, manifest, limits, clock=clock, random=random)
        self._scheduler = Scheduler(
            servers, retries, manifest, digits=digits, notifier=notifier, clock=clock, sleep=sleep
        )
        self._monitor = StallMonitor(
            servers,
            retries,
            manifest,
            limits,
            notifier=notifier,
            clock=clock,
            sleep=sleep,
            when_looked=self._observe_rates,
        )
        self._shards = OpenShards(sink, limits.look_ahead, notifier)
        self._opener = ShardOpener(manifest, sink, self._shards, notifier)

    @property
    def progress(self) -> TransferProgress:
        """How far the transfer has come, now."""
        return TransferProgress(
            size=self.manifest.size,
            done=self._shards.bytes_done,
            shards=len(self.manifest.shards),
            shards_done=self._shards.shards_done,
            servers=self._servers.progress,
            neighbours=replace(self.neighbours(), rate=self._servers.rates.of(_NEIGHBOURS)),
        )

    def _observe_rates(self, now: float) -> None:
        """Pass the bytes received from each source by now on to ``rates``."""
        received = {**self._servers.received, _NEIGHBOURS: self.neighbours().received}
        self._servers.rates.observe(now, received)

    @property
    def received(self) -> int:
        """Bytes of the servers' answers, verified or not."""
        running = sum(
            active.request.received - active.progress.received for active in self._servers.running.values()
        )
        return sum(self._servers.received.values()) + running

    @property
    def wait(self) -> Wait | None:
        """The present wait, while no byte comes."""
        return self._scheduler.wait

    def join(self, peer: Peer) -> None:
        """Ask another server from now on."""
        if self._servers.join(peer):
            self._notifier.notify()

    # Pieces by another way: from the neighbours in a swarm

    @property
    def open_landings(self) -> list[Landing]:
        """The landings of the open shards, by the shards' numbers."""
        return self._shards.landings

    def is_closed(self, number: int) -> bool:
        """Return whether a shard is whole and its landing was closed."""
        return self._shards.is_released(number)

    @property
    def overdue_shard(self) -> int | None:
        """The number of a shard about to keep others from being opened; None while there is time."""
        return self._shards.overdue

    async def wait_open(self, number: int) -> None:
        """Wait until a shard is open, or was closed."""
        while not (self._shards.find(number) or self._shards.is_released(number)):
            await self._notifier.change()

    @property
    def paused(self) -> bool:
        """Whether the pieces come by another way now."""
        return self._shards.paused

    def pause(self) -> None:
        """Send no more requests for ranges, and end each answer under way after its present piece."""
        self._shards.pause()
        self._scheduler.cut_short(self.manifest.header.piece_size)

    def resume(self) -> None:
        """Ask the servers again for all missing ranges."""
        if self.paused:
            self._shards.resume()

    def count(self, server: str, size: int) -> None:
        """Record ``size`` bytes from a server by another way."""
        if server in self._servers.received:
            self._servers.received[server] += size

    async def commit_if_whole(self, number: int) -> None:
        """Hand a shard over to the sink if pieces from neighbours have completed it.

        A failure counts for the whole transfer: ``run`` raises it.
        """
        download = self._shards.find(number)
        if download and download.landing.whole:
            try:
                await self._shards.commit(download)
            except (ShardcastError, OSError) as error:
                self._failure = error
                self._notifier.notify()

    async def _wait_committed(self) -> None:
        """Wait until the sink has every shard, from any source.

        Raises:
            LocalDiskError: the disk failed in ``commit_if_whole``.
        """
        while not self._shards.all_committed:
            if self._failure:
                raise self._failure
            await self._notifier.change()

    async def run(self) -> Manifest:
        """Fetch, verify and complete the version, and return its manifest.

        Shards are fetched in the order of the manifest, since an open version's manifest still grows.

        Raises:
            VersionAborted: the publisher aborted the version.
            NoServerReachable: no server could be reached for too long.
            TransferFailed: the servers answered, but not with a shard.
            AccessDenied: the servers refuse this node.
            IntegrityError: bytes with a wrong digest, in as many attempts as allowed.
            LocalDiskError: this machine's disk failed.
        """
        if not self._hash_whole:
            await self._fetch(self._release_shards())
            assert self.manifest.manifest
            await self._sink.complete(self.manifest.manifest)
            return self.manifest.manifest
        hasher = PayloadHasher(self._algorithms(), self.manifest.header.piece_size if self._survey else None)
        landing_of, mark_hashed = self._shards.landing, self._shards.mark_hashed
        await self._fetch(hash_payload(self.manifest.iterate_shards(), landing_of, mark_hashed, hasher))
        manifest = self.manifest.manifest
        assert manifest
        digests = hasher.digests()
        wrong = {name: digests[name] for name in digests if digests[name] != manifest.digests.get(name)}
        if wrong.keys() & manifest.digests.keys():
            raise IntegrityError(
                f"{manifest.version} from {self._servers.names} is not what its digest says: expected "
                f"{_in_words(manifest.digests)}, got {_in_words(wrong)}; nothing was kept under a final "
                "name; name other servers, or broadcast it again"
            )
        if self._survey:
            manifest = hasher.manifest(manifest.version)
        await self._sink.complete(manifest)
        return manifest

    def _algorithms(self) -> set[str]:
        """Return the algorithms of the whole digest.

        They are those of the manifest, or SHA-256 alone if among them. A surveyed manifest needs SHA-256 in
        any case.
        """
        known = set(self.manifest.manifest.digests) if self.manifest.manifest else {"sha256"}
        if self._survey:
            return known | {"sha256"}
        return {"sha256"} if "sha256" in known else known

    async def _release_shards(self) -> None:
        """Release the shards in order, each once stored by the sink: no reader follows behind the workers."""
        async for shard in self.manifest.iterate_shards():
            while not ((download := self._shards.find(shard.number)) and download.committed):
                await self._notifier.change()
            self._shards.mark_hashed(shard.number)

    async def _fetch(self, behind: Coroutine[Any, Any, None]) -> None:
        """Fetch all shards; ``behind`` takes them in order behind the workers."""
        shards = self._shards
        try:
            await _run_together(
                self._opener.open_ahead(),
                behind,
                self._wait_committed(),
                *(self._work() for _ in range(self._limits.at_once)),
                background=(self._opener.open_wanted(), self._monitor.run(), self.manifest.wait_failed()),
            )
        finally:
            await shards.close()

    async def _work(self) -> None:
        """Carry out one range task after the other until every shard is whole."""
        while not self._shards.all_whole:
            task = self._next_task()
            if task is None:
                await self._notifier.change()
                continue
            await self._scheduler.fetch(task)
            if task.download.landing.whole:
                await self._shards.commit(task.download)

    def _next_task(self) -> RangeTask | None:
        """Return an idle worker's next task; None if the worker should wait."""
        if self._shards.paused or self._scheduler.full or self._shards.digest_lags:
            return None
        return self._shards.next_range() or self._scheduler.steal(self._shards.may_lose)


def _in_words(digests: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {digest}" for name, digest in digests.items())


async def _run_together(
    *parts: Coroutine[Any, Any, None], background: Iterable[Coroutine[Any, Any, None]]
) -> None:
    """Run all parts at once, and more in the ``background`` until all parts have ended.

    The first error cancels the others and is raised.

    A ``TaskGroup`` would cancel each task once. Before Python 3.12 ``asyncio.wait_for`` may swallow a
    cancellation, so ``cancel`` repeats it; and an error is raised unchanged here, in no group.
    """
    pending = {asyncio.ensure_future(part) for part in parts}
    tasks = {*map(asyncio.ensure_future, background), *pending}
    try:
        while pending:
            done, _ = await asyncio.wait(
                {task for task in tasks if not task.done()}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            pending -= done
    finally:
        await cancel(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()
