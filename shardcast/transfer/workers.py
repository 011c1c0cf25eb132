"""A version from its servers into a ShardSink: policy carried out, everything verified."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from shardcast.concurrency import Notifier, cancel
from shardcast.errors import IntegrityError, LocalLimit
from shardcast.peer.server import Peer
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.sharding.payload_hasher import PayloadHasher
from shardcast.store.interfaces import ShardSink
from shardcast.store.landing import Landing, close_landings
from shardcast.store.live_manifest import LiveManifest
from shardcast.transfer.limits import Limits, Progress, free_descriptors
from shardcast.transfer.payload_digest import hash_whole
from shardcast.transfer.ranges import RangeTask, ShardDownload
from shardcast.transfer.servers import Servers
from shardcast.waits import Wait

_READY = 2
"""Ranges that wait for a worker, so that none waits for a shard to be opened."""
_EARLY = 4
"""Shards that somebody waits for, and that are asked for beyond the look-ahead."""
_LAG = 3
"""Shards here that the whole digest has yet to read, at which no others are asked for."""


class Transfer:
    """One version on its way here.

    Every shard is asked for whole, from the server that is best for it; what is missing after a failure is
    asked from another; when nothing is left to start, idle connections take over the second half of the
    slowest range. ``survey`` has the manifest made of what arrives, where old nodes have none.
    """

    def __init__(
        self,
        manifest: LiveManifest,
        peers: Sequence[Peer],
        filling: ShardSink,
        digits: int = 3,
        survey: bool = False,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.manifest = manifest
        self._filling = filling
        self._survey = survey
        self._limits = (limits or Limits()).within(free_descriptors())
        self._notifier = Notifier()
        self._servers = Servers(
            manifest, peers, digits, self._limits, self._notifier, clock, random or Random(), sleep
        )
        self._arriving: dict[int, ShardDownload] = {}
        self._todo: deque[RangeTask] = deque()
        self._done_bytes = 0
        self._done_shards = 0
        self._hashed = 0
        self._begun: set[int] = set()
        self._opening = 0
        self._begun_all = False

    @property
    def progress(self) -> Progress:
        """How far it has come, now."""
        return Progress(
            size=self.manifest.size,
            done=self._done_bytes + sum(one.landing.landed for one in self._arriving.values()),
            shards=len(self.manifest.shards),
            shards_done=self._done_shards + sum(one.landing.whole for one in self._arriving.values()),
            servers=self._servers.progress,
        )

    @property
    def wait(self) -> Wait | None:
        """What is waited for while no byte comes, now."""
        return self._servers.wait

    def join(self, peer: Peer) -> None:
        """Ask one more server from now on."""
        self._servers.join(peer)

    async def run(self) -> Manifest:
        """Fetch, verify and complete the version; returns its manifest. Where that still grows, so does
        what is fetched.

        Raises:
            VersionAborted: the publisher gave it up.
            NoServerReachable: none could be reached for too long.
            TransferFailed: the servers answered, but not with a shard.
            IntegrityError: what they sent is not what its digest says, as often as it was worth asking.
            LocalDiskError: this machine's disk failed.
        """
        survey = PayloadHasher(self._algorithms(), self.manifest.header.piece_size if self._survey else None)
        await self._fetch(survey)
        manifest = self.manifest.whole
        assert manifest
        digests = survey.digests()
        wrong = {name: digests[name] for name in digests if digests[name] != manifest.digests.get(name)}
        if wrong.keys() & manifest.digests.keys():
            raise IntegrityError(
                f"{manifest.version} from {self._servers.names} is not what its digest says: expected "
                f"{_in_words(manifest.digests)}, got {_in_words(wrong)}; nothing was kept under a final "
                "name; name other servers, or broadcast it again"
            )
        if self._survey:
            manifest = survey.manifest(manifest.version)
        await self._filling.complete(manifest)
        return manifest

    def _algorithms(self) -> set[str]:
        known = set(self.manifest.whole.digests) if self.manifest.whole else {"sha256"}
        if self._survey:
            return known | {"sha256"}
        return {"sha256"} if "sha256" in known else known

    # The parts that run at once

    async def _fetch(self, survey: PayloadHasher) -> None:
        try:
            await _together(
                self._open_ahead(),
                hash_whole(self.manifest.as_they_come(), self._landing, self._was_hashed, survey),
                *(self._work() for _ in range(self._limits.at_once)),
                beside=(self._open_wanted(), self._servers.watch(), self.manifest.broken()),
            )
        finally:
            await close_landings([arriving.landing for arriving in self._arriving.values()])

    async def _open_ahead(self) -> None:
        """Make room for shards just before they are needed, as far ahead of the whole digest as it may be."""
        async for shard in self.manifest.as_they_come():
            while shard.number not in self._begun:
                if len(self._todo) < _READY and shard.number <= self._reach:
                    await self._open(shard, self._todo.extend)
                else:
                    await self._notifier.change()
        self._begun_all = True
        self._notifier.notify()

    async def _open_wanted(self) -> None:
        """The shards that somebody waits for come first."""
        while True:
            shard = await self._filling.wanted()
            while sum(number > self._reach for number in self._arriving) >= _EARLY:
                await self._notifier.change()
            if shard.number not in self._begun:
                await self._open(shard, lambda claims: self._todo.extendleft(reversed(claims)))

    @property
    def _reach(self) -> int:
        """The last shard that the whole digest can read from memory."""
        return self._hashed + self._limits.look_ahead

    async def _open(self, shard: Shard, put: Callable[[list[RangeTask]], None]) -> None:
        self._begun.add(shard.number)
        self._opening += 1
        arriving = ShardDownload(await self._land(shard))
        self._opening -= 1
        self._arriving[shard.number] = arriving
        put([self._servers.claim(arriving, start, end) for start, end in arriving.landing.missing()])
        self._notifier.notify()
        if arriving.landing.whole:
            await self._shelve(arriving)

    async def _land(self, shard: Shard) -> Landing:
        while True:
            try:
                return await self._filling.landing(shard)
            except LocalLimit:
                if all(number > shard.number for number in self._arriving):
                    raise  # none of them can go before this one is here
            # Others are open; have one less of them.
            at_most = len(self._arriving)
            while len(self._arriving) >= at_most:
                await self._notifier.change()

    @property
    def _opened_all(self) -> bool:
        return self._begun_all and not self._opening

    async def _landing(self, number: int) -> Landing:
        while number not in self._arriving:
            await self._notifier.change()
        return self._arriving[number].landing

    def _was_hashed(self, number: int) -> None:
        self._hashed = number
        self._arriving[number].hashed = True
        self._let_go(number)

    async def _shelve(self, arriving: ShardDownload) -> None:
        arriving.shelving = True
        await self._filling.shelve(arriving.landing)
        arriving.shelved = True
        self._let_go(arriving.landing.shard.number)

    def _let_go(self, number: int) -> None:
        """A shard that is shelved and hashed needs no more looking after."""
        arriving = self._arriving[number]
        if arriving.shelved and arriving.hashed:
            arriving.landing.close()
            del self._arriving[number]
            self._done_bytes += arriving.landing.shard.size
            self._done_shards += 1
        self._notifier.notify()

    async def _work(self) -> None:
        """See to one claim after the other until nothing is left."""
        while not (self._opened_all and all(one.landing.whole for one in self._arriving.values())):
            claim = self._next()
            if claim is None:
                await self._notifier.change()
                continue
            await self._servers.see_to(claim)
            if claim.arriving.landing.whole and not claim.arriving.shelving:
                await self._shelve(claim.arriving)

    def _next(self) -> RangeTask | None:
        if self._servers.full or self._behind:
            return None
        if not self._todo:
            return self._servers.steal(self._may_lose)
        self._notifier.notify()  # there is room for another
        return self._todo.popleft()

    @property
    def _behind(self) -> bool:
        """Whether the whole digest lags so far behind that it needs the processor more than new shards do."""
        # Those that somebody waits for are begun before their turn, so that one between may not have begun.
        following = map(self._arriving.get, range(self._hashed + 1, self._hashed + _LAG + 1))
        return all(one is not None and one.landing.whole for one in following)

    def _may_lose(self, arriving: ShardDownload) -> bool:
        """As long as shards wait for the look-ahead, only the one that keeps it from moving on matters."""
        return self._opened_all or arriving.landing.shard.number == self._hashed + 1


def _in_words(digests: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {digest}" for name, digest in digests.items())


async def _together(*parts: Coroutine[Any, Any, None], beside: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all parts at once, and more ``beside`` them for as long as they run; the first error ends the
    others and is raised."""
    pending = {asyncio.ensure_future(part) for part in parts}
    tasks = {*map(asyncio.ensure_future, beside), *pending}
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
